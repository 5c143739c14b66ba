"""Several sets as one: their persons train together and are never mixed up."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from dgrl.datasets import synthetic
from dgrl.errors import InputError
from dgrl.tables import read_keys, read_rows
from pipeline.download import download
from pipeline.inputs import inputs
from pipeline.params import Params, load_params
from pipeline.split import split

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared/data"
MARKET = SHARED / "Market-1501-v15.09.15.train-only.zip"
CUHK01 = SHARED / "CUHK01.zip"
ONE = {"kind": "synthetic", "persons": 6, "images_per_camera": 1, "seed": 1}
TWO = {"kind": "synthetic", "persons": 4, "cameras": 5, "seed": 2}


def params(sets: Any, **mlr: Any) -> Params:
    values = load_params(ROOT / "params.yaml").model_dump()
    values["source"]["pool"] = {"kind": "pool", "sets": sets}
    values["datasets"] = ["pool"]
    values["mlr"] |= {"evaluate_on": "val"} | mlr
    return Params.parse(values, "")


def build(sets: Any, **mlr: Any) -> None:
    settings = params(sets, **mlr)
    download("pool", settings)
    split("pool", settings, workers=1)


def error_of(sets: Any, **mlr: Any) -> str:
    with pytest.raises(InputError) as caught:
        build(sets, **mlr)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_images_of_all_sets_with_the_sets_name_before_each_id() -> None:
    download("pool", params({"two": TWO, "one": ONE}))
    expected = [
        (f"{name}:{row.image_id}", f"{name}:{row.person_id}", f"{name}:{row.camera_id}", "train", row.data)
        for name, source in (("one", ONE), ("two", TWO))
        for row in synthetic.images(synthetic.SyntheticParams.parse(source, ""))
    ]
    rows = list(read_rows(Path("data/pool/images")))
    assert [(r.image_id, r.person_id, r.camera_id, r.subset, r.data) for r in rows] == expected


def test_the_persons_of_all_sets_train_together() -> None:
    build({"one": ONE, "two": TWO}, val_fraction=0.3)
    tables = {table: read_keys(Path(f"data/pool/mlr/{table}")) for table in ("train_hr", "query")}
    persons = {table: set(keys.person_id) for table, keys in tables.items()}
    assert {person.split(":")[0] for person in persons["train_hr"]} == {"one", "two"}
    assert len(persons["train_hr"]) == 7  # of 10
    assert len(persons["query"]) == 3
    assert not persons["train_hr"] & persons["query"]


def test_a_given_subset_is_kept(tmp_path: Path) -> None:
    rows = ["path,person_id,camera_id,subset"]
    (tmp_path / "own").mkdir()
    sources = list(synthetic.images(synthetic.SyntheticParams.parse(ONE, "")))
    for row, subset in zip(sources, ["train", "test", "query", "distractor", "junk", ""], strict=False):
        (tmp_path / f"own/{row.image_id}.png").write_bytes(row.data)
        rows.append(f"{row.image_id}.png,{subset},c1,{subset}" if subset else f"{row.image_id}.png,all,c1,")
    (tmp_path / "own.csv").write_text("\n".join(rows))
    download("pool", params({"own": {"kind": "folder", "root": "own", "table": "own.csv"}}))
    keys = read_keys(Path("data/pool/images"))
    assert dict(zip(keys.person_id, keys.subset, strict=True)) == {
        "own:train": "train", "own:test": "test", "own:query": "query",
        "own:distractor": "distractor", "own:junk": "junk", "own:all": "train",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ({}, "no sets are given"),
        ({"a:b": ONE}, "source.pool.sets: 'a:b' is no name of a set"),
        ({"a": {"kind": "lfw"}}, "source.pool.sets.a.kind = 'lfw': allowed: synthetic, viper"),
        ({"a": 3}, "source.pool.sets.a.kind = None: allowed"),
        ({"a": ONE | {"sex": 1}}, "source.pool.sets.a.sex is not a known key"),
        ([ONE], "input should be a valid dictionary"),
        ({"a": {"kind": "viper", "archive": "x.zip"}}, "source.pool.sets.a.archive = 'x.zip' does not exist"),
    ],
)
def test_wrong_sets(sets: Any, said: str) -> None:
    assert said in error_of(sets)


def test_a_pool_without_persons_to_test() -> None:
    assert "pool: all persons are of the subset train, none is left to test; choose mlr.evaluate_on: val" in (
        error_of({"one": ONE}, evaluate_on="test")
    )


def test_the_files_of_all_sets_are_inputs(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"a")
    (tmp_path / "data/drop").mkdir(parents=True)
    (tmp_path / "data/drop/CAVIAR4REID.zip").write_bytes(b"c")
    sets = {"a": {"kind": "viper", "archive": "a.zip"}, "caviar": {"archive": None}, "b": 3}
    Path("params.yaml").write_text(yaml.safe_dump({"source": {"pool": {"kind": "pool", "sets": sets}}}))
    inputs("pool")
    digests = json.loads(Path("data/pool/inputs/source.json").read_text())
    assert set(digests) == {"sets.a.archive", "sets.caviar.archive"}
    (tmp_path / "a.zip").write_bytes(b"another")
    inputs("pool")
    assert json.loads(Path("data/pool/inputs/source.json").read_text()) != digests


@pytest.mark.slow
@pytest.mark.skipif(not CUHK01.exists(), reason="the real archives are not here")
def test_market1501_and_cuhk01_train_together() -> None:
    sets = {
        "market1501": {"archive": str(MARKET), "parts": "train"},
        "cuhk01": {
            "kind": "folder",
            "root": str(CUHK01),
            "pattern": r"campus/(?P<person_id>\d{4})00(?P<camera_id>[1-4])\.png",
        },
    }
    settings = params(sets, lr_camera={"pool": "*:*[12]"})  # Market's c1 and c2; CUHK01's first camera
    download("pool", settings)
    images = read_keys(Path("data/pool/images"))
    of_set = images.person_id.str.partition(":")[0]
    assert of_set.value_counts().to_dict() == {"market1501": 12_936, "cuhk01": 3_884}
    assert images.groupby(of_set).person_id.nunique().to_dict() == {"market1501": 751, "cuhk01": 971}
    split("pool", settings, workers=2)
    told = json.loads(Path("data/pool/mlr/split.json").read_text())
    persons = pd.Series(told["train_persons"]).str.partition(":")[0].value_counts()
    assert (len(told["train_persons"]), len(told["test_persons"])) == (1_378, 344)  # a fifth held out
    assert persons.min() > 500
