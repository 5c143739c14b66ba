"""Ablations: the rows are the paper's, and each is queued once for every seed and trial."""

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
import yaml

from dgrl.errors import InputError
from pipeline.experiments.ablate import ablate, experiments
from pipeline.experiments.paper import ABLATIONS, FULL, TABLES, AblationName
from pipeline.params import Params

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml and stages that would do nothing."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    Path("dvc.yaml").write_text("stages: {evaluate: {cmd: 'true', params: [train, loss, mlr, datasets]}}\n")
    return tmp_path


@pytest.fixture
def project(folder: Path) -> Path:
    """The folder as a git and DVC project without a commit."""
    (folder / ".dvc").mkdir()
    shutil.copyfile(ROOT / ".dvc/config", folder / ".dvc/config")
    git("init", "--quiet")
    git("config", "user.name", "test")
    git("config", "user.email", "test@example.org")
    return folder


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, capture_output=True)


# The rows


@pytest.mark.parametrize("which", get_args(AblationName))
def test_rows_set_params_that_exist(which: AblationName) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for row in ABLATIONS[which].rows:
        for key, value in row.params.items():
            section, name = key.split(".")
            assert name in params[section]
            params[section][name] = value
        Params.parse(params, "")


@pytest.mark.parametrize("which", ["losses", "components"])
def test_rows_add_one_thing_after_the_other(which: AblationName) -> None:
    rows = [row.params for row in ABLATIONS[which].rows]
    assert all(row.keys() == FULL.keys() for row in rows)
    added = [{key for key in FULL if later[key] and not earlier[key]} for earlier, later in pairwise(rows)]
    assert added == {
        "losses": [{"loss.wrt"}, {"loss.l1"}, {"loss.kl"}],
        "components": [{"model.non_local"}, {"model.galn", "model.side_branches"}, {"model.restormer"}],
    }[which]  # fmt: skip
    assert rows[-1] == FULL
    assert sum(not value for value in rows[0].values()) == sum(map(len, added))


def test_the_rows_metrics_are_the_papers() -> None:
    assert [row.paper["market1501"] for row in TABLES["II"].rows] == [
        (89.9, 96.3, 97.8), (92.9, 97.3, 98.6), (93.2, 97.9, 98.7), (93.9, 98.0, 98.8),
    ]  # fmt: skip
    assert [row.paper["market1501"][0] for row in TABLES["III"].rows] == [87.0, 87.5, 93.3, 93.9]
    assert len(TABLES["I"].rows) == 12
    for table in TABLES.values():
        for row in table.rows:
            for rank1, rank5, rank10 in row.paper.values():
                assert 0 < rank1 <= rank5 <= rank10 < 100


# The queue


def test_every_row_is_queued_for_every_seed_and_trial(project: Path) -> None:
    git("add", "--all")
    git("commit", "--message", "project")
    before = Path("params.yaml").read_bytes()
    names = ablate("sr", seeds=2, trials=2, dataset="synthetic", name="try")
    assert names == [f"try-{row}-{number}" for row in ("none", "bicubic", "rcan") for number in (1, 2, 3, 4)]
    assert Path("params.yaml").read_bytes() == before
    _, commit = experiments()
    queued = {each["name"]: each for each in commit["experiments"]}
    assert set(queued) == set(names)
    settings = set()
    for name, experiment in queued.items():
        assert experiment["executor"]["state"] == "queued"
        params = experiment["revs"][0]["data"]["params"]["params.yaml"]["data"]
        assert params["sr"]["method"] == name.split("-")[1]
        assert params["datasets"] == ["synthetic"]
        assert all(params["loss"][key] == 1 for key in ("wrt", "l1", "kl"))
        settings.add((params["sr"]["method"], params["train"]["seed"], params["mlr"]["trial"]))
    assert len(settings) == len(names)
    with pytest.raises(InputError, match=r"'try-none-1' already; .*--name.* dvc queue remove try-none-1"):
        ablate("sr", name="try")


# Mistakes


def test_a_folder_without_params_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"params\.yaml does not exist here"):
        ablate("losses")


def test_a_folder_without_dvc_is_a_mistake(folder: Path) -> None:
    with pytest.raises(InputError, match="no DVC project"):
        ablate("losses")


def test_a_folder_without_git_is_a_mistake(folder: Path) -> None:
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    no_scm = false\n")
    with pytest.raises(InputError, match=r"^dvc exp show failed: .*[Gg]it"):
        ablate("losses")


def test_a_project_without_a_commit_is_a_mistake(project: Path) -> None:
    with pytest.raises(InputError, match="no git commit"):
        ablate("losses")


def test_an_unknown_dataset_is_a_mistake(folder: Path) -> None:
    with pytest.raises(InputError, match=r"viper is not one of params\.yaml's datasets \(synthetic\)"):
        ablate("losses", dataset="viper")


def test_params_that_differ_from_the_commit_are_a_mistake(project: Path) -> None:
    git("add", "--all")
    git("commit", "--message", "project")
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["loss"]["gamma"] = 1.0  # as dvc exp run -S leaves it
    Path("params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(
        InputError, match=r"^params\.yaml differs from the last commit in loss\.gamma, .*commit"
    ):
        ablate("losses")
    params["loss"]["gamma"] = 5.0
    Path("params.yaml").write_text(yaml.safe_dump(params))  # the same values, another format
    assert ablate("sr") == ["sr-none-1", "sr-bicubic-1", "sr-rcan-1"]


def test_what_dvc_refuses_is_said_in_its_words(project: Path) -> None:
    git("add", "--all")
    git("commit", "--message", "project")
    with pytest.raises(InputError, match=r"^dvc exp run failed: .*a name"):
        ablate("losses", name="a name")
