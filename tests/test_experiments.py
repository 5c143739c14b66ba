"""Experiments, as DVC shows them, become runs, and what is left out is said."""

import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_table import markdown

from dgrl.errors import InputError
from pipeline.experiments.ablate import ablate
from pipeline.experiments.table import read_runs, table

ROOT = Path(__file__).parents[1]


def shown(name: str, state: str | None, data: Any, error: Any = None) -> dict[str, Any]:
    """An experiment as ``dvc exp show --json`` gives it."""
    executor = state and {"state": state, "name": "dvc-task"}
    return {"name": name, "executor": executor, "revs": [{"rev": name, "data": data, "error": error}]}


def data(metrics: Any, **sections: Any) -> dict[str, Any]:
    return {"params": {"params.yaml": {"data": sections}}, "metrics": metrics}


def test_experiments_become_runs_and_the_others_notes() -> None:
    multi_shot = {"rank1": 41.0, "rank5": 51.0, "rank10": 61.0}
    metrics = {"rank1": 40.0, "rank5": 50.0, "rank10": 60.0, "mAP": 1.0, "multi_shot": multi_shot}
    viper, caviar = "data/viper/eval/metrics.json", "data/caviar/eval/metrics.json"
    missing = {"error": {"type": "FileNotFoundError", "msg": "no file"}}
    fresh = {
        "data": {
            "viper": metrics
            | {"options": {"train.epochs": 3, "mlr.factors": "2 3", "mlr.training_pairs": "twin"}}
        }
    }
    stale = {"data": {"caviar": metrics | {"options": {"train.epochs": 4, "mlr.training_pairs": "twin"}}}}
    other = {"data/viper/dgrl/live/metrics.json": {"data": {"viper": {"id": 1.0}}}}
    sections = {
        "train": {"epochs": 3},
        "mlr": {"factors": [2, 3], "training_pairs": "auto", "lr_camera": {"viper": None}},
    }
    commit = {
        "rev": "0123456789",
        "experiments": [
            shown("good", "success", data({viper: fresh, caviar: missing} | other, **sections)),
            shown("applied", None, data({viper: fresh, caviar: stale}, **sections)),
            shown("new", "queued", data({}, **sections)),
            shown("now", "running", data({viper: fresh}, **sections)),
            shown("bad", "failed", data({viper: missing}, **sections), {"msg": "failed", "type": ""}),
            shown("broken", "success", None, {"msg": "no params", "type": ""}),
            shown("half", "success", data({viper: missing} | other, **sections)),
        ],
    }
    runs, notes = read_runs([{"rev": "workspace", "experiments": None}, commit])
    assert list(runs.experiment) == ["good", "applied"]
    assert runs.iloc[0].to_dict() == {
        "experiment": "good", "commit": "0123456", "dataset": "viper",
        "rank1": 40.0, "rank5": 50.0, "rank10": 60.0,
        "multi_shot.rank1": 41.0, "multi_shot.rank5": 51.0, "multi_shot.rank10": 61.0,
        "train.epochs": 3, "mlr.factors": "2 3", "mlr.training_pairs": "auto", "mlr.lr_camera.viper": None,
    }  # fmt: skip
    assert notes == [
        "left out, failed: 2 (bad, broken)",
        "left out, out of date on caviar (its metrics are of another train.epochs): 1 (applied)",
        "left out, queued: 1 (new)",
        "left out, running: 1 (now)",
        "left out, unevaluated: 1 (half)",
    ]


def test_a_note_names_five_experiments_at_most() -> None:
    waiting = [shown(f"e{i}", "queued", data({})) for i in range(7)]
    assert read_runs([{"rev": "abc", "experiments": waiting}])[1] == [
        "left out, queued: 7 (e0, e1, e2, e3, e4, ...)"
    ]


def test_a_folder_without_dvc_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no DVC project"):
        table("I")


STUB = """
import json, pathlib, yaml
params = yaml.safe_load(open("params.yaml"))
method, seed = params["sr"]["method"], params["train"]["seed"]
assert method != "none"
rank = {"bicubic": 30, "rcan": 40}[method] + 2 * seed
metrics = {"rank1": rank, "rank5": rank + 10, "rank10": rank + 20, "factor2": {"rank1": 1.0}}
metrics["options"] = {"sr.method": method, "mlr.factors": " ".join(map(str, params["mlr"]["factors"]))}
folder = pathlib.Path("data/synthetic/eval")
folder.mkdir(parents=True, exist_ok=True)
(folder / "metrics.json").write_text(json.dumps({"synthetic": metrics}))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A DVC project whose only stage makes metrics up; its queue is stopped in the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")  # the queue's worker runs `dvc`
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    Path(".dvc").mkdir()
    shutil.copyfile(ROOT / ".dvc/config", ".dvc/config")
    Path("stub.py").write_text(STUB)
    Path(".gitignore").write_text("/data\n")
    stage = {
        "matrix": {"dataset": "${datasets}"},
        "cmd": f"{sys.executable} stub.py",
        "params": ["mlr", "sr", "train"],
        "metrics": ["data/${item.dataset}/eval/metrics.json"],
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"evaluate": stage}}))
    command("git", "init", "--quiet")
    command("git", "config", "user.name", "test")
    command("git", "config", "user.email", "test@example.org")
    command("git", "add", "--all")
    command("git", "commit", "--message", "project")
    yield tmp_path
    dvc("queue", "stop", "--kill")


def command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=600)


def dvc(*arguments: str) -> None:
    command(sys.executable, "-m", "dvc", *arguments)


@pytest.mark.slow
def test_ablations_become_a_table(project: Path) -> None:
    ablate("sr", seeds=2)
    dvc("exp", "run", "--run-all")
    dvc("exp", "run", "--name", "here", "-S", "train.seed=2")  # in the workspace
    text, notes = table("sr", "csv")
    rows = {row["row"]: row for row in csv.DictReader(io.StringIO(text))}
    assert {name: (row["n"], row["rank1"], row["rank1_std"]) for name, row in rows.items()} == {
        "none": ("0", "", ""), "bicubic": ("2", "31.00", "1.41"), "RCAN": ("3", "42.00", "2.00"),
    }  # fmt: skip
    assert notes[0] == "left out, failed: 2 (sr-none-1, sr-none-2)"
    assert "have different seeds or trials, so many of them: bicubic: 2, RCAN: 3" in notes[1]
    assert len(notes) == 2
    text, _ = table("II", where=["train.seed=2"])
    assert markdown(text)[-1][1:6] == ["ID + WRT + L1 + KLDiv", "1", "44.0", "54.0", "64.0"]
    command("git", "commit", "--allow-empty", "--message", "next")
    assert "DGRL (this project) | -" in table("I")[0]
    text, _ = table("I", dataset="synthetic", all_commits=True)
    assert markdown(text)[-1] == ["DGRL (this project)", "42.0 ± 2.0", "52.0 ± 2.0", "62.0 ± 2.0", "3"]
