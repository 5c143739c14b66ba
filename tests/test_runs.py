"""``dgrl runs`` and ``dgrl doctor``: what there is at a glance, and what is missing."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from pipeline import doctor as doctors
from pipeline import origin as origins
from pipeline.doctor import doctor
from pipeline.experiments import runs as module
from pipeline.experiments.runs import runs

ROOT = Path(__file__).parents[1]


def data(gamma: float, rank1: float | None = None, **more: Any) -> dict[str, Any]:
    """What ``dvc exp show --json`` has of a commit or an experiment."""
    params = {"loss": {"gamma": gamma}, **more}
    metrics = {} if rank1 is None else {"viper": {"rank1": rank1, "mAP": 2 * rank1, "options": {}}}
    file = {"data/viper/eval/metrics.json": {"data": metrics}}
    return {"params": {"params.yaml": {"data": params}}, "metrics": file}


def experiment(name: str, found: dict[str, Any] | None, state: str = "success") -> dict[str, Any]:
    return {"name": name, "executor": {"state": state}, "revs": [{"data": found}]}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    long = {f"parameter{i}": {"of_some_length": i} for i in range(4)}
    commit = {
        "rev": "0123456789",
        "name": "main",
        "data": data(5.0, 40.0),
        "experiments": [
            experiment("calm-ants", data(1.0, 41.25)),
            experiment("many-params", data(5.0, 39.0, **long)),
            experiment("later", data(2.0), "queued"),
            experiment("broken", None, "failed"),
        ],
    }
    workspace = {"rev": "workspace", "data": data(1.0, 41.25), "experiments": None}
    found: list[dict[str, Any]] = [workspace, commit]
    monkeypatch.setattr(module, "experiments", lambda all_commits: found)
    return found


def test_a_run_has_its_metrics_and_the_params_that_differ(shown: list[dict[str, Any]]) -> None:
    rows = [line.split() for line in runs(width=120).splitlines()]
    assert ["workspace", "viper", "41.2", "82.5", "loss.gamma=1"] in rows
    assert ["main", "viper", "40.0", "80.0"] in rows
    assert ["calm-ants", "viper", "41.2", "82.5", "loss.gamma=1"] in rows
    assert ["later", "queued", "loss.gamma=2"] in rows
    assert ["broken", "failed"] in rows


@pytest.mark.parametrize(
    "metrics", [{"viper": 5}, {"viper": {}}, {"viper": {"rank1": "x", "mAP": 1.0}}, [], 5]
)
def test_metrics_that_were_edited_are_none(shown: list[dict[str, Any]], metrics: Any) -> None:
    shown[0]["data"]["metrics"]["data/viper/eval/metrics.json"] = {"data": metrics}
    assert ["workspace", "-", "loss.gamma=1"] in [line.split() for line in runs(width=120).splitlines()]


def test_no_line_is_wider_than_80_columns_and_no_param_is_cut(shown: list[dict[str, Any]]) -> None:
    text = runs(width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "parameter3.of_some_length=3" in "".join(text.split())


def test_the_doctor_says_what_is_here_and_how_to_get_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = ("ray", "onnxscript")
    monkeypatch.setattr(doctors, "installed_version", lambda name: None if name in gone else "1.2.3")
    lines, missing = doctor()
    text = "\n".join(lines)
    for said in ("torch 1.2.3", "CPU: ", "bf16", "disk: "):
        assert said in text
    assert "optional: ray, to split on a cluster: pip install 'dgrl[ray]'" in missing
    assert re.findall(r"dgrl\[(\w+)\]", "".join(missing)) == ["onnx", "ray"]
    assert "extras: search, app, " in text
    monkeypatch.setattr(doctors, "installed_version", lambda name: None)
    assert "torch: pip install torch" in doctor()[1]


def test_opencv_may_be_the_headless_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in many containers, where the report of stage evaluate found no package of that name."""

    def version(name: str) -> str:
        if name == "opencv-python-headless":
            return "5.0.0"
        raise PackageNotFoundError(name)

    monkeypatch.setattr(origins, "version", version)
    lines, missing = doctor()
    assert "opencv-python 5.0.0" in lines[1]
    assert "torch: pip install torch" in missing
    assert not any("opencv" in line for line in missing)


def test_the_doctor_knows_every_extra() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {
        extra: {re.split("[<>=]", each)[0] for each in packages if not each.startswith("dgrl[")}
        for extra, packages in declared.items()
    }
    assert doctors.EXTRAS.keys() == names.keys()
    for extra, (packages, _) in doctors.EXTRAS.items():
        assert set(packages) <= names[extra]
        assert extra == "dev" or set(packages) == names[extra]
