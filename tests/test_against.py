"""A run beside an earlier one: what git and DVC keep of a project, as a page."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dgrl.errors import InputError
from dgrl.report.render import render
from pipeline.experiments.against import against

STAGE = """stages:
  evaluate:
    matrix: {dataset: [viper, other]}
    cmd: mkdir -p data/${item.dataset}/eval && cp made/* data/${item.dataset}/eval
    params: [loss]
    deps: [made]
    outs:
      - data/${item.dataset}/eval/cmc.csv
    metrics:
      - data/${item.dataset}/eval/metrics.json
"""


def call(folder: Path, *words: str) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)


def repro(folder: Path, rank1: float, gamma: float) -> None:
    """What the stage writes of a made-up run."""
    metrics = {"rank1": rank1, "rank5": 60.0, "rank10": 70.0, "mAP": 50.0, "mINP": 20.0}
    more = {"multi_shot": {"rank1": rank1 + 5}, "factor2": {"rank1": rank1 + 1}, "options": {"epochs": 3}}
    (folder / "made").mkdir(exist_ok=True)
    (folder / "made/metrics.json").write_text(json.dumps(dict.fromkeys(("viper", "other"), metrics | more)))
    (folder / "made/cmc.csv").write_text(f"rank,single_shot,multi_shot\n1,{rank1},80\n2,90,95\n")
    (folder / "params.yaml").write_text(f"loss:\n  gamma: {gamma}\n  kl: 1.0\n")
    call(folder, "dvc", "repro", "-q")


def commit(folder: Path, message: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    call(folder, "git", "add", "--all")
    call(folder, "git", *identity, "commit", "-q", "--allow-empty", "-m", message)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two commits of different runs, between them one without dvc.lock, then one that changes no run."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "dvc.yaml").write_text(STAGE)
    call(folder, "git", "init", "-q")
    call(folder, "dvc", "init", "-q")
    repro(folder, 30.0, 5.0)
    commit(folder, "one")
    call(folder, "git", "tag", "one")
    (folder / "dvc.lock").unlink()
    commit(folder, "without dvc.lock")
    repro(folder, 40.0, 1.0)
    commit(folder, "two")
    commit(folder, "nothing")
    return folder


def test_the_newest_commit_with_other_metrics_is_the_previous_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    report = against("viper")
    found = subprocess.run(["git", "rev-parse", "one"], capture_output=True, text=True, check=True).stdout[:7]
    assert list(report.headline.index[:5]) == [
        *("this run", found, "difference", "multi-shot", f"multi-shot, {found}")
    ]
    assert report.headline.rank1.tolist()[:5] == [40.0, 30.0, 10.0, 45.0, 35.0]
    assert list(report.tables["Rank-1 by down-sampling factor"].x2) == [41.0, 31.0]
    assert "Params that differ: loss.gamma = 1.0 (there 5.0)." in report.notes
    assert (
        f"1 {found} 30.0" in report.plots[0].csv.replace(",", " ") or f"{found},1,30" in report.plots[0].csv
    )
    page = render(report)
    assert f'<th scope="row">{found}</th><td>30.0</td>' in page
    assert "DGRL (paper)" in page
    assert 'id="run"' not in page  # a part without content


def test_a_run_that_the_cache_has_lost_is_passed_over(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    before = set((copy / ".dvc/cache").rglob("*"))
    repro(copy, 50.0, 1.0)
    commit(copy, "lost")
    lost = [path for path in set((copy / ".dvc/cache").rglob("*")) - before if path.is_file()]
    repro(copy, 60.0, 1.0)
    for path in lost:
        path.unlink()
    monkeypatch.chdir(copy)
    assert against("viper").headline.rank1.tolist()[:2] == [60.0, 40.0]


def test_a_revision_may_be_named_and_the_workspace_need_not_be_committed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    repro(copy, 50.0, 1.0)
    monkeypatch.chdir(copy)
    assert against("other").headline.rank1.tolist()[:2] == [50.0, 40.0]
    named = against("viper", "one")
    assert list(named.headline.index[:2]) == ["this run", "one"]
    assert named.headline.rank1.tolist()[:2] == [50.0, 30.0]


def test_what_cannot_be_compared_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(
        InputError, match=r"^the revision nobody: unknown Git revision 'nobody'; give a commit"
    ):
        against("viper", "nobody")
    with pytest.raises(InputError, match=r"caviar.*metrics\.json"):
        against("caviar")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / ".dvc/cache")
    monkeypatch.chdir(copy)
    with pytest.raises(InputError, match=r"^one has no metrics of viper .*dvc fetch"):
        against("viper", "one")
    with pytest.raises(
        InputError, match=r"no commit has other metrics of viper than this run \(\w{7} has no"
    ):
        against("viper")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("dvc.lock", "<<<<<<< HEAD\n"),
        ("dvc.lock", ""),
        ("data/viper/eval/metrics.json", "{"),
        ("data/viper/eval/metrics.json", "{}"),
        ("data/viper/eval/cmc.csv", ""),
    ],
)
def test_a_damaged_file_of_this_run_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / file).unlink()
    (copy / file).write_text(content)
    monkeypatch.chdir(copy)
    with pytest.raises(InputError, match=r"^this run: data/viper/eval or dvc\.lock is damaged"):
        against("viper", "one")
