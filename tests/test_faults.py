"""Whatever call fails: one line, the earlier results or the new ones, whole, and a next run that succeeds."""

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults import CALLS, failing

from dgrl import tables
from pipeline.cli import main

PRESET = Path(__file__).parents[1] / "params.yaml"
CODES = (errno.ENOSPC, errno.EIO, errno.EACCES)
STAGES = ("download", "split", "cache-sr")
PER_KIND = 5  # calls that fail, spread over those that a stage makes
# What a rerun of the stage computes anew.
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "download": {"source": {"synthetic": {"seed": 1}}},
    "split": {"mlr": {"trial": 1}},
    "cache-sr": {"mlr": {"trial": 1}},
}
SOURCE = {"persons": 6, "cameras": 4, "images_per_camera": 1, "width": 16, "height": 32}

Files = dict[str, bytes]


def run(stage: str) -> int:
    """The stage's exit status."""
    workers = [] if stage == "download" else ["--workers", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dgrl", stage, "synthetic", *workers])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def change(changes: dict[str, dict[str, Any]]) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    for section, values in changes.items():
        for key, value in values.items():
            params[section][key] = params[section][key] | value if isinstance(value, dict) else value
    Path("params.yaml").write_text(yaml.safe_dump(params))


def results() -> Files:
    """What the stages have published; temporary files are none of it."""
    found = (path for path in Path("data").rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in found if not any(p.startswith(".") for p in path.parts)}


def leftovers() -> list[Path]:
    return [path for path in Path().rglob(".*") if path.suffix in {".tmp", ".lock"}]


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A stage that is to be run again, with other params, in a project where all have run."""
    name: str = request.param
    monkeypatch.setattr(tables, "ROWS_PER_SHARD", 12)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # thousands of fsyncs are slow on a disk
    folder = Path(tempfile.mkdtemp(dir=memory))
    (folder / "project").mkdir()
    monkeypatch.chdir(folder / "project")
    shutil.copy(PRESET, "params.yaml")
    change({"source": {"synthetic": SOURCE}, "sr": {"method": "bicubic"}})
    for earlier in STAGES:
        assert run(earlier) == 0
    change(CHANGES[name])
    if name == "cache-sr":
        assert run("split") == 0
    yield name
    shutil.rmtree(folder)


def test_any_call_may_fail(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = results()
    shutil.copytree(".", "../before")
    calls = {}
    for kind in CALLS:
        with failing(kind, 0, 0) as faults:
            assert run(stage) == 0
        calls[kind] = faults.seen
    after = results()
    assert after != before
    assert all(calls.values())
    tried = 0
    for kind, count in calls.items():
        for call in sorted({1 + round(i * (count - 1) / (PER_KIND - 1)) for i in range(PER_KIND)}):
            shutil.rmtree("data")
            shutil.copytree("../before/data", "data")
            code, case = CODES[tried % len(CODES)], f"{stage}: {kind} {call} of {count}"
            tried += 1
            capsys.readouterr()
            with failing(kind, call, code) as faults:
                status = run(stage)
            said = capsys.readouterr().err
            assert faults.seen >= call, case
            assert results() in ([after] if status == 0 else [before, after]), case
            if status:
                line = said.splitlines()[-1]
                assert line.startswith("error: "), (case, said)
                assert os.strerror(code).lower() in line.lower(), (case, said)
                assert "Traceback" not in said, (case, said)
            assert run(stage) == 0, case
            assert results() == after, case
            assert not leftovers(), case
