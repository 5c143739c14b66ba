"""The `dgrl` command: stages repeat themselves; a mistake is one line and leaves nothing behind."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from dgrl import tables
from dgrl.datasets import viper
from dgrl.datasets.catalog import KINDS
from dgrl.images import pixel_sha256
from dgrl.mlr.degrade import downsample
from dgrl.mlr.protocol import TABLES, table_digest
from dgrl.tables import read_keys, read_rows, shards, write_table
from pipeline.cli import main

ROOT = Path(__file__).parents[1]
SUBCOMMANDS = (
    "download",
    "split",
    "pretrain-sr",
    "cache-sr",
    "train",
    "evaluate",
    "preset",
    "digest",
    "ablate",
    "table",
    "embed",
    "index",
    "search",
    "forget",
    "export",
)
IMAGES, MLR = Path("data/synthetic/images"), Path("data/synthetic/mlr")

Command = Callable[..., tuple[int, str]]


def change(section: str, **values: Any) -> None:
    """Edit params.yaml of the project in the working directory."""
    file = Path("params.yaml")
    params = yaml.safe_load(file.read_text())
    params[section] |= values
    file.write_text(yaml.safe_dump(params))


def files(folder: Path = Path("data")) -> dict[str, bytes]:
    return {path.as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leftovers() -> list[Path]:
    return [path for path in Path().rglob(".*") if path.suffix == ".tmp"]


def viper_zip(path: Path, persons: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (16, 8, 3), np.uint8)
    with zipfile.ZipFile(path, "w") as archive:
        for person in range(persons):
            for camera in viper.CAMERAS:
                archive.writestr(
                    f"VIPeR/{camera}/{person:03d}_0.bmp", cv2.imencode(".bmp", noise)[1].tobytes()
                )
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with presets and the parameters of a tiny synthetic set."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "presets", "presets")
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    small = {"persons": 8, "cameras": 4, "images_per_camera": 1, "width": 16, "height": 32}
    change("source", synthetic={"kind": "synthetic"} | small)
    return tmp_path


@pytest.fixture
def dgrl(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in the project: its exit status and what it said."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dgrl", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), "".join(capsys.readouterr())

    return run


@pytest.fixture
def split(dgrl: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, in a project where download and split have run, with several shards."""
    monkeypatch.setattr(tables, "ROWS_PER_SHARD", 10)
    assert dgrl("download", "synthetic") == (0, "")
    assert dgrl("split", "synthetic", "--workers", "1") == (0, "")
    return dgrl


def mistake(dgrl: Command, *arguments: str) -> str:
    """The one line that the mistake ends in; nothing that was there has changed."""
    before = files(Path())
    status, said = dgrl(*arguments)
    assert status == 1
    assert said.startswith("error: ")
    assert said.endswith("\n")
    assert said.count("\n") == 1
    assert files(Path()) == before
    assert not leftovers()
    return said


# Stages that run


def test_download_and_split_end_with_one_line(dgrl: Command, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    said = "synthetic: 32 images, 8 persons, 4 cameras"
    assert dgrl("download", "synthetic") == (0, "")
    assert caplog.messages[-1] == said
    assert dgrl("split", "synthetic") == (0, "")
    assert caplog.messages[-1] == f"{said}, 0 left out, 16 train_hr, 16 train_lr, 4 query, 12 gallery"


def test_download_and_split_write_whole_tables_and_say_so(split: Command) -> None:
    assert len(shards(IMAGES)) == 4
    assert sorted(path.name for path in MLR.iterdir()) == [
        "gallery",
        "query",
        "split.json",
        "train_hr",
        "train_lr",
    ]
    assert not leftovers()
    told = json.loads((MLR / "split.json").read_text())
    assert told["dataset"] == "synthetic"
    assert told["options"]["lr_camera"] == "c1"
    assert {name: part["images"] for name, part in told["counts"].items()} == {
        "train_hr": 16, "train_lr": 16, "query": 4, "gallery": 12,
    }  # fmt: skip
    for table in TABLES:
        assert told["digests"][table] == table_digest(read_keys(MLR / table))


def test_every_lr_image_is_its_images_downsampled_as_split_json_says(split: Command) -> None:
    images = {row.image_id: row for row in read_rows(IMAGES)}
    told = json.loads((MLR / "split.json").read_text())
    low = [*read_rows(MLR / "train_lr"), *read_rows(MLR / "query")]
    assert {row.image_id: row.factor for row in low} == told["factors"]
    for row in low:
        expected = downsample(images[row.image_id].pixels(), row.factor)
        assert row.pixel_sha256 == pixel_sha256(expected) == pixel_sha256(row.pixels())
    for row in [*read_rows(MLR / "train_hr"), *read_rows(MLR / "gallery")]:
        assert row == replace(images[row.image_id], subset=row.subset)
        assert row.person_id in told["train_persons" if row.subset == "train" else "test_persons"]


def test_digests_are_those_of_split_json_and_notice_a_changed_image(split: Command) -> None:
    told = json.loads((MLR / "split.json").read_text())["digests"]
    for workers in ("1", "2"):
        status, said = split("digest", "synthetic", "--workers", workers)
        assert status == 0
        assert {name: value for value, name, *_ in map(str.split, said.splitlines())} == told
    rows = list(read_rows(MLR / "query"))
    other = replace(rows[0], data=rows[1].data)
    write_table(MLR / "query", [other, *rows[1:]])
    assert f"the image of {other.image_id} is not the one" in mistake(split, "digest", "synthetic")


def test_split_twice_gives_the_same_files(split: Command) -> None:
    before = files()
    assert split("split", "synthetic", "--workers", "1") == (0, "")
    assert files() == before


def test_split_gives_the_same_files_with_two_processes(split: Command) -> None:
    before = files()
    shutil.rmtree(MLR)
    assert split("split", "synthetic", "--workers", "2") == (0, "")
    assert files() == before


def test_download_twice_gives_the_same_files(split: Command) -> None:
    before = files()
    assert split("download", "synthetic") == (0, "")
    assert files() == before


def test_another_trial_is_another_split_of_the_same_images(split: Command) -> None:
    before = files(IMAGES), json.loads((MLR / "split.json").read_text())
    change("mlr", trial=1)
    assert split("split", "synthetic", "--workers", "1") == (0, "")
    after = files(IMAGES), json.loads((MLR / "split.json").read_text())
    assert after[0] == before[0]
    assert after[1]["options"]["trial"] == 1
    assert all(after[1]["digests"][table] != before[1]["digests"][table] for table in TABLES)


@pytest.mark.parametrize("name", ["data/drop/viper_v1.zip", "elsewhere/archive.zip"])
def test_an_archive_is_taken_from_the_drop_folder_or_where_params_say(
    dgrl: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(viper, "PERSONS", 3)
    archive = viper_zip(Path(name), persons=3)
    if "drop" not in name:
        change("source", viper={"archive": str(archive)})
    assert dgrl("download", "viper") == (0, "")
    assert len(read_keys(Path("data/viper/images"))) == 6


# Mistakes


def test_outside_a_project(dgrl: Command) -> None:
    Path("params.yaml").unlink()
    for arguments in (["download", "synthetic"], ["split", "synthetic"]):
        assert mistake(dgrl, *arguments) == (
            "error: params.yaml does not exist here; run dgrl in the project's folder\n"
        )
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("section", "values", "told"),
    [
        ("mlr", {"factor": 2}, "params.yaml: mlr.factor is not a known key (allowed: seed, trial, factors,"),
        ("train", {"epochs": -1}, "params.yaml: train.epochs = -1: input should be"),
        ("source", {"synthetic": {"persons": 1}}, "params.yaml: source.synthetic.persons = 1: "),
    ],
)
def test_a_wrong_parameter(dgrl: Command, section: str, values: dict[str, Any], told: str) -> None:
    change(section, **values)
    assert mistake(dgrl, "download", "synthetic").startswith(f"error: {told}")
    assert not Path("data").exists()


def test_a_params_file_that_is_no_yaml(dgrl: Command) -> None:
    Path("params.yaml").write_text("mlr: [\n")
    assert mistake(dgrl, "download", "synthetic").startswith("error: params.yaml is no valid YAML: ")


@pytest.mark.parametrize(
    ("dataset", "file"), [("caviar", "CAVIAR4REID.zip"), ("cuhk03", "cuhk03_release.zip")]
)
def test_an_archive_that_only_a_person_can_get(dgrl: Command, dataset: str, file: str) -> None:
    said = mistake(dgrl, "download", dataset)
    assert f"ask for {file} at https://" in said
    assert f"put it into data/drop/ or set source.{dataset}.archive in params.yaml" in said
    assert not Path("data").exists()


def use_remote(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Change what is known of VIPeR's archive."""
    kind = KINDS["viper"]
    assert kind.remote is not None
    monkeypatch.setitem(KINDS, "viper", replace(kind, remote=replace(kind.remote, **changes)))


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on a loopback server, which VIPeR's archive is fetched from."""
    folder = tmp_path_factory.mktemp("mirror")
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/VIPeR.v1.0.zip"
        use_remote(monkeypatch, mirrors=(url,))
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield folder
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_an_archive_is_fetched_once_into_a_cache(
    dgrl: Command, mirror: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(viper, "PERSONS", 3)
    cache = tmp_path_factory.mktemp("cache")
    change("runtime", cache=str(cache))
    archive = viper_zip(mirror / "VIPeR.v1.0.zip", persons=3)
    use_remote(monkeypatch, md5=hashlib.md5(archive.read_bytes()).hexdigest())
    assert dgrl("download", "viper") == (0, "")
    assert (cache / archive.name).read_bytes() == archive.read_bytes()
    archive.unlink()
    assert dgrl("download", "viper") == (0, "")
    assert len(read_keys(Path("data/viper/images"))) == 6


def test_no_mirror_and_no_archive(dgrl: Command, mirror: Path) -> None:
    change("runtime", cache=str(mirror / "cache"))
    said = mistake(dgrl, "download", "viper")
    assert "404" in said
    assert "get VIPeR.v1.0.zip by hand" in said
    assert "put it into data/drop/ or set source.viper.archive in params.yaml" in said


def test_an_archive_that_is_not_where_params_say(dgrl: Command) -> None:
    change("source", viper={"archive": "nowhere/VIPeR.zip"})
    assert "source.viper.archive = 'nowhere/VIPeR.zip' does not exist" in mistake(dgrl, "download", "viper")


@pytest.mark.parametrize("persons", [2, 3])
def test_a_wrong_or_damaged_archive_leaves_earlier_images_whole(
    dgrl: Command, monkeypatch: pytest.MonkeyPatch, persons: int
) -> None:
    monkeypatch.setattr(viper, "PERSONS", 3)
    archive = viper_zip(Path("data/drop/VIPeR.zip"), persons=3)
    dgrl("download", "viper")
    viper_zip(archive, persons)
    if persons == 2:
        told = "4 images of 2 persons instead of 6 of 3"
    else:
        archive.write_bytes(archive.read_bytes()[:-30])
        told = "may be truncated"
    said = mistake(dgrl, "download", "viper")
    assert "data/drop/VIPeR.zip" in said
    assert told in said
    assert len(read_keys(Path("data/viper/images"))) == 6


@pytest.mark.parametrize("stage", [["split"], ["pretrain-sr", "2"], ["cache-sr"], ["train"], ["evaluate"]])
def test_a_stage_whose_inputs_are_missing(dgrl: Command, stage: list[str]) -> None:
    name, *scale = stage
    assert re.search(
        "data/synthetic/.*(run the .*stage|\\(dvc repro\\)$)", mistake(dgrl, name, "synthetic", *scale)
    )


def test_a_wrong_lr_camera_leaves_the_earlier_split_whole(split: Command) -> None:
    change("mlr", lr_camera={"synthetic": "c9"})
    said = mistake(split, "split", "synthetic")
    told = "mlr.lr_camera.synthetic = 'c9' is no camera of synthetic (allowed: c1, c2, c3, c4, or a pattern"
    assert said.startswith(f"error: {told}")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_damaged_image_leaves_the_earlier_split_whole(split: Command, workers: str) -> None:
    rows = list(read_rows(IMAGES))
    query = next(read_rows(MLR / "query")).image_id
    write_table(IMAGES, [replace(row, data=b"") if row.image_id == query else row for row in rows])
    said = mistake(split, "split", "synthetic", "--workers", workers)
    assert f"{query}.png ({query}) is not a readable image" in said


@pytest.mark.parametrize("arguments", [["split"], ["split", "synthetic", "--workers", "0"], ["frobnicate"]])
def test_a_wrong_command_line_is_a_usage_error(dgrl: Command, arguments: list[str]) -> None:
    status, said = dgrl(*arguments)
    assert status == 2
    assert "Usage: dgrl" in said
    assert "Traceback" not in said
    assert not Path("data").exists()


def test_a_dataset_that_params_do_not_have(dgrl: Command) -> None:
    assert "params.yaml has no section source.lfw (there are: " in mistake(dgrl, "download", "lfw")


def test_a_mistake_in_a_real_process_shows_no_traceback(project: Path) -> None:
    code = "from pipeline.cli import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, "split", "synthetic"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: data/synthetic/images holds no table; write it first (dvc repro)\n"


# Presets


@pytest.mark.parametrize("name", ["paper", "synthetic", "viper-laptop"])
def test_a_preset_takes_the_place_of_params(dgrl: Command, name: str) -> None:
    assert dgrl("preset", name) == (0, "")
    datasets = yaml.safe_load((ROOT / f"presets/{name}.yaml").read_text())["datasets"]
    assert yaml.safe_load(Path("params.yaml").read_text())["datasets"] == datasets
    assert not leftovers()


@pytest.mark.parametrize("name", ["papr", "paper.yaml", "../params", "*"])
def test_an_unknown_preset(dgrl: Command, name: str) -> None:
    allowed = ", ".join(sorted(path.stem for path in (ROOT / "presets").iterdir()))
    assert mistake(dgrl, "preset", name) == f"error: no preset {name!r} here (allowed: {allowed})\n"


def test_a_broken_preset_leaves_params_alone(dgrl: Command) -> None:
    Path("presets/mine.yaml").write_text("datasets:\n  - lfw\n")
    assert "datasets: lfw has no section source.lfw" in mistake(dgrl, "preset", "mine")


def test_presets_are_found_in_the_project_folder_only(dgrl: Command) -> None:
    shutil.rmtree("presets")
    assert "not in the project folder" in mistake(dgrl, "preset", "paper")


# Without torch

WITHOUT_TORCH = """
import sys
from pipeline.cli import main
for arguments in {commands}:
    sys.argv = ["dgrl", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, arguments
    heavy = {{"torch", "torchvision", "basicsr", "dvc", "dvclive"}} & set(sys.modules)
    assert not heavy, (arguments, heavy)
"""


def without_torch(*commands: tuple[str, ...]) -> str:
    code = WITHOUT_TORCH.format(commands=commands)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_help_needs_no_torch(project: Path) -> None:
    said = without_torch(("--help",), *((subcommand, "--help") for subcommand in SUBCOMMANDS))
    for subcommand in SUBCOMMANDS:
        assert f"Usage: dgrl {subcommand}" in said


def test_download_split_and_preset_need_no_torch(project: Path) -> None:
    without_torch(("download", "synthetic"), ("split", "synthetic", "--workers", "1"), ("preset", "paper"))
    assert (MLR / "split.json").exists()
