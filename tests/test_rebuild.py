"""The real archives give the sets whose digests docs/digests.json publishes, however they are built."""

import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dgrl.tables import ImageRow, read_rows, write_table
from pipeline import download as download_stage
from pipeline.digest import digest
from pipeline.download import download
from pipeline.params import Params, load_params
from pipeline.split import split

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared/data"
ARCHIVES: dict[str, Path] = {
    "viper": SHARED / "VIPeR.v1.0.zip",
    "caviar": SHARED / "CAVIAR4REID.zip",
    "market1501": SHARED / "Market-1501-v15.09.15.train-only.zip",
}
PUBLISHED = json.loads((ROOT / "docs/digests.json").read_text())

real = pytest.mark.skipif(not SHARED.exists(), reason="the real archives are not here")
every_archive = pytest.mark.parametrize("dataset", list(ARCHIVES))


def params(dataset: str, archive: Path, trial: int = 0, **mlr: Any) -> Params:
    """The defaults; of Market-1501 the training part, split into training and held-out persons."""
    values = load_params(ROOT / "params.yaml").model_dump()
    values["source"][dataset]["archive"] = str(archive)
    values["source"]["market1501"]["parts"] = "train"
    values["mlr"] |= {"trial": trial, "evaluate_on": "val" if dataset == "market1501" else "test"} | mlr
    return Params.parse(values, "")


def build(dataset: str, archive: Path, *, trial: int = 0, workers: int = 1, **mlr: Any) -> dict[str, str]:
    """The digests of the set, built in the working directory."""
    settings = params(dataset, archive, trial, **mlr)
    download(dataset, settings)
    split(dataset, settings, workers)
    return {table: value for table, (_, value) in digest(dataset, workers).items()}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@real
@every_archive
def test_the_published_digests(dataset: str) -> None:
    assert build(dataset, ARCHIVES[dataset], workers=2) == PUBLISHED[dataset][0]
    counts = json.loads(Path(f"data/{dataset}/mlr/split.json").read_text())["counts"]
    images = {table: count["images"] for table, count in counts.items()}
    persons = {table: count["persons"] for table, count in counts.items()}
    if dataset == "viper":
        assert images == {"train_hr": 632, "train_lr": 632, "query": 316, "gallery": 316}
        assert set(persons.values()) == {316}
    elif dataset == "caviar":
        assert (images["query"], images["gallery"], set(persons.values())) == (250, 250, {25})
        assert images["train_hr"] == images["train_lr"] >= 250
    else:
        assert images["train_hr"] + images["query"] + images["gallery"] == 12_936
        assert persons["train_hr"] + persons["gallery"] == 751


@real
@pytest.mark.parametrize("dataset", ["viper", "caviar"])
def test_the_last_of_the_ten_trials(dataset: str) -> None:
    assert len(PUBLISHED[dataset]) == 10
    assert build(dataset, ARCHIVES[dataset], trial=9) == PUBLISHED[dataset][9]


@real
@every_archive
def test_a_folder_gives_the_same_set_as_the_archive(dataset: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(ARCHIVES[dataset]) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert build(dataset, tmp_path / "unpacked") == PUBLISHED[dataset][0]


@real
def test_the_order_of_the_images_is_irrelevant(monkeypatch: pytest.MonkeyPatch) -> None:
    def shuffled(folder: Path, rows: list[ImageRow]) -> int:
        rows = list(rows)
        random.Random(0).shuffle(rows)
        return write_table(folder, rows)

    monkeypatch.setattr(download_stage, "write_table", shuffled)
    assert build("viper", ARCHIVES["viper"]) == PUBLISHED["viper"][0]
    first = next(read_rows(Path("data/viper/images"))).image_id
    assert first != "000_cam_a"


@real
def test_caviar_drops_the_persons_of_one_camera() -> None:
    build("caviar", ARCHIVES["caviar"])
    told = json.loads(Path("data/caviar/mlr/split.json").read_text())
    assert len(told["dropped_persons"]) == 22
    assert told["factors"] == {}


@real
def test_caviar_with_twins_of_the_near_images_has_the_same_queries_and_gallery() -> None:
    digests = build("caviar", ARCHIVES["caviar"], training_pairs="twin")
    assert [digests[table] for table in ("query", "gallery")] == list(PUBLISHED["caviar"][0].values())[2:]
    counts = json.loads(Path("data/caviar/mlr/split.json").read_text())["counts"]
    assert counts["train_hr"] == {"images": 250, "persons": 25, "factors": {"1": 250}}
    assert set(counts["train_lr"]["factors"]) == {"2", "3", "4"}


def test_published_digests_are_of_four_tables_each() -> None:
    tables = ["train_hr", "train_lr", "query", "gallery"]
    for trials in PUBLISHED.values():
        for digests in trials:
            assert list(digests) == tables
            assert len({*digests.values()}) == 4
