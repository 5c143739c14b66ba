"""The `dgrl` command: stages repeat themselves; a mistake is one line and leaves nothing behind."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import ROOT, Command, change, files, leftovers, mistake

from dgrl import tables
from dgrl.images import pixel_sha256
from dgrl.mlr.degrade import downsample
from dgrl.mlr.protocol import TABLES, table_digest
from dgrl.tables import read_keys, read_rows, shards, write_table

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
    "report",
    "against",
    "app",
    "forget",
    "export",
)
IMAGES, MLR = Path("data/synthetic/images"), Path("data/synthetic/mlr")


@pytest.fixture
def split(dgrl: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, in a project where download and split have run, with several shards."""
    monkeypatch.setattr(tables, "ROWS_PER_SHARD", 10)
    assert dgrl("download", "synthetic") == (0, "")
    assert dgrl("split", "synthetic", "--workers", "1") == (0, "")
    return dgrl


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


@pytest.mark.parametrize("words", [[], ["--help"], ["lfw"]])
def test_the_stage_inputs_of_no_dataset_writes_nothing(project: Path, words: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pipeline", "inputs", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert ("no section source.lfw" if "lfw" in words else "usage: ") in ran.stderr
    assert not Path("data").exists()


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


@pytest.mark.parametrize("content", ["", "mlr: [", "- a"])
def test_a_preset_cannot_mend_a_broken_params_file(dgrl: Command, content: str) -> None:
    Path("params.yaml").write_text(content)
    for more in ([], ["--force"]):
        assert mistake(dgrl, "preset", "synthetic", *more).startswith("error: params.yaml ")


def test_nothing_of_a_preset_is_left_by_the_next(dgrl: Command) -> None:
    for name in ("synthetic", "pool", "synthetic"):
        assert dgrl("preset", name, "--force") == (0, "")
    assert yaml.safe_load(Path("params.yaml").read_text())["source"]["pool"]["sets"] == {}
    assert dgrl("preset", "paper") == (0, "")
    assert not list(Path().glob("*.bak"))


def test_a_preset_differs_from_its_base_in_what_it_says(dgrl: Command) -> None:
    Path("presets/mine.yaml").write_text("base: lineage\nloss:\n  gamma: 7\n")
    assert dgrl("preset", "mine") == (0, "")
    mine = yaml.safe_load(Path("params.yaml").read_text())
    assert dgrl("preset", "lineage") == (0, "")
    lineage = yaml.safe_load(Path("params.yaml").read_text())
    assert (mine["loss"]["gamma"], lineage["loss"]["gamma"]) == (7, 5)
    lineage["loss"]["gamma"] = 7
    assert mine == lineage


def test_a_preset_whose_base_is_no_preset_or_has_no_end(dgrl: Command) -> None:
    Path("presets/mine.yaml").write_text("base: papr\n")
    assert "presets/mine.yaml: base: no preset 'papr' here" in mistake(dgrl, "preset", "mine")
    Path("presets/mine.yaml").write_text("base: [paper]\n")
    assert "presets/mine.yaml: base: no preset ['paper'] here" in mistake(dgrl, "preset", "mine")
    Path("presets/mine.yaml").write_text("base: yours\n")
    Path("presets/yours.yaml").write_text("base: mine\n")
    said = mistake(dgrl, "preset", "mine")
    assert "presets/mine.yaml: base: mine -> yours -> mine has no end" in said


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
