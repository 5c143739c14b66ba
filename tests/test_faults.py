"""Whatever call fails: one line, the earlier results or the new ones, whole, and a next run that succeeds."""

import errno
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from faults import CALLS, Stages
from trust import WHOLE, record

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]
CODES = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT)
# How many faults a short and a whole run try: fewer where a stage takes longer.
STAGES = {
    "download synthetic": (28, 1000),
    "split synthetic": (40, 1000),
    "pretrain-sr synthetic 2": (14, 300),
    "cache-sr synthetic": (40, 1000),
    "train synthetic": (6, 220),
    "evaluate synthetic": (8, 300),
}
PER_KIND = 40  # calls at most, spread over those that a stage makes, each of which fails with each code
TINY: dict[str, dict[str, Any]] = {
    "mlr": {"factors": [2]},
    "rcan": {"scales": [2], "iterations": 60, "warmup": 2, "batch": 2, "patch": 12, "val_fraction": 0.3},
    "model": {
        "height": 32, "width": 32, "side_branches": False, "restormer": False, "non_local": False,
        "dimension": 8, "groups": 2, "group_hidden": 8,
    },
    "train": {"persons_per_batch": 2, "epochs": 2, "learning_rate": 0.005},
    "evaluate": {"examples": 2},
    "runtime": {"log_every": 1, "checkpoint_every": 2, "storage": "file", "workers": 1},
}  # fmt: skip
SOURCE = {"persons": 8, "cameras": 4, "images_per_camera": 1, "width": 16, "height": 32}
# What a rerun of the stage computes anew.
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "download synthetic": {"source": {"synthetic": SOURCE | {"kind": "synthetic", "seed": 1}}},
    "split synthetic": {"mlr": {"trial": 1}},
    "pretrain-sr synthetic 2": {"rcan": {"seed": 1}},
    "cache-sr synthetic": {"sr": {"method": "bicubic"}},
    "train synthetic": {"train": {"seed": 1}},
    "evaluate synthetic": {"evaluate": {"flip": True}},
}

Files = dict[str, bytes]
logger = logging.getLogger(__name__)


class Case(NamedTuple):
    """A call that fails, counted from 1 among those of its kind, and the error code."""

    kind: str
    call: int
    code: int


def change(changes: dict[str, dict[str, Any]]) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    for section, values in changes.items():
        params[section] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params))


def results() -> Files:
    """What the stages have published, less the curves of a run, which hold its speed."""
    found = (path for path in Path("data").rglob("*") if path.is_file() and "live" not in path.parts)
    return {str(path): path.read_bytes() for path in found if not any(p.startswith(".") for p in path.parts)}


def leftovers() -> list[Path]:
    hidden = [path for path in Path("data").rglob(".*") if path.suffix in {".tmp", ".lock"}]
    return [*hidden, *Path(".work").glob("*")]


@pytest.fixture(scope="module")
def stages() -> Iterator[Stages]:
    found = Stages()
    yield found
    found.close()


@pytest.fixture(scope="module")
def finished(stages: Stages) -> Iterator[Path]:
    """A project where all stages have run."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # thousands of fsyncs are slow on a disk
    folder = Path(tempfile.mkdtemp(dir=memory))
    project = folder / "finished"
    project.mkdir()
    for name in ("dgrl", "pipeline", "dvc.yaml"):  # the code that the resume state depends on
        (project / name).symlink_to(REPOSITORY / name)
    shutil.copy(REPOSITORY / "params.yaml", project)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        change({"source": {"synthetic": SOURCE | {"kind": "synthetic"}}, **TINY})
    for stage in STAGES:
        assert stages.run(project, stage).status == 0
    yield project
    shutil.rmtree(folder)


@pytest.fixture
def project(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, to work in."""
    copy = finished.with_name("project")
    shutil.copytree(finished, copy, symlinks=True)
    monkeypatch.chdir(copy)
    yield copy
    shutil.rmtree(copy)


@pytest.mark.parametrize("stage", STAGES)
def test_any_call_may_fail(stages: Stages, project: Path, finished: Path, stage: str) -> None:
    change(CHANGES[stage])
    before = results()
    calls = {kind: stages.run(project, stage, kind).seen for kind in CALLS}
    after = results()
    assert after != before
    assert all(calls[kind] for kind in ("open", "write", "fsync", "rename", "mkdir", "remove"))
    assert calls["mmap"] or stage != "train synthetic"
    problems: list[str] = []
    for tried, case in enumerate(chosen(calls, STAGES[stage][WHOLE]), start=1):
        shutil.rmtree("data")
        shutil.copytree(finished / "data", "data")
        for problem in broken(stages, project, stage, case, before, after):
            problems.append(f"{stage}, {case}: {problem}")
            logger.warning(problems[-1])
        keep(stage, tried, problems)
    assert not problems, "\n".join(problems)


def keep(stage: str, tried: int, problems: list[str]) -> None:
    """Record how far the test has come."""
    train = stage.startswith("train")
    kept = "each file of the earlier run or the new one" if train else "earlier results or new ones"
    outcome = f"one line or completed; {kept}, whole; the next run to equal bytes"
    if problems:
        outcome = f"{len(problems)} NOT as promised"
    name = f"tests/test_faults.py::test_any_call_may_fail[{stage}]"
    record(f"{stage.split()[0]}: a call to the disk fails", tried, outcome, name)


def chosen(calls: dict[str, int], sample: int) -> list[Case]:
    """The calls to fail: of up to ``PER_KIND`` of a kind with each code, a sample."""
    cases = []
    for kind, count in calls.items():
        spread = min(count, PER_KIND)
        numbers = sorted({1 + i * (count - 1) // max(1, spread - 1) for i in range(spread)})
        cases += [Case(kind, call, code) for call in numbers for code in CODES]
    return random.Random(0).sample(cases, min(sample, len(cases)))


def broken(
    stages: Stages, project: Path, stage: str, case: Case, before: Files, after: Files
) -> Iterator[str]:
    """What is not as promised when a call fails, and in the next run."""
    ended = stages.run(project, stage, *case)
    allowed = [after] if ended.status == 0 else [before, after]
    renames = stage.startswith("train")  # losses, model and config, one after the other
    if not (each_whole(results(), allowed) if renames else results() in allowed):
        yield f"results changed, status {ended.status}: {ended.said}"
    if ended.status:
        line = ["", *ended.said.splitlines()][-1]
        reason = os.strerror(case.code).lower()
        if "Traceback" in ended.said or not line.startswith("error: ") or reason not in line.lower():
            yield f"status {ended.status}: {ended.said}"
    rerun = stages.run(project, stage)
    if rerun.status or results() != after:
        yield f"the next run differs, status {rerun.status}: {rerun.said}"
    if left := leftovers():
        yield f"left after the next run: {left}"


def each_whole(found: Files, allowed: list[Files]) -> bool:
    """Whether each file is that of one run or the other."""
    return all(any(found.get(name) == files.get(name) for files in allowed) for name in allowed[0] | found)
