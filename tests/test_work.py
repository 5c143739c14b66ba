"""The work folder: found again after a kill, deleted after success, used by one run at a time."""

import logging
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dgrl.errors import InputError
from dgrl.files import locked
from pipeline.work import code, work_folder

FORK = multiprocessing.get_context("fork")
DAY = 24 * 3600


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)


def interrupted(settings: str, text: str = "state", stage: str = "train@x") -> Path:
    """The folder of a run that ended with an error."""
    with pytest.raises(KeyboardInterrupt), work_folder(stage, settings, []) as work:  # noqa: PT012
        (work / "state").write_text(text)
        raise KeyboardInterrupt
    return work


def age(folder: Path, days: float) -> None:
    for path in (*folder.rglob("*"), folder):
        os.utime(path, times=(time.time() - days * DAY,) * 2)


def states() -> set[str]:
    return {path.name for path in Path(".work").iterdir()}


def test_a_run_finds_the_state_of_the_same_run_only() -> None:
    interrupted("a")
    with work_folder("train@x", "b", []) as other, work_folder("train@y", "a", []) as third:
        assert not list(other.iterdir())
        assert not list(third.iterdir())
    with work_folder("train@x", "a", []) as same:
        assert (same / "state").read_text() == "state"
    assert not states()


def test_changed_inputs_are_another_run(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.mkdir()
    for text in ("one", "two"):
        (table / "part").write_text(text)
        with pytest.raises(KeyboardInterrupt), work_folder("train@x", "", [table]) as work:  # noqa: PT012
            assert not list(work.iterdir())
            (work / "state").touch()
            raise KeyboardInterrupt


def test_a_missing_input_is_named() -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):  # noqa: SIM117
        with work_folder("train@x", "", [Path("nowhere")]):
            pass
    assert not states()


def _enter(times: int, settings: str, journal: Path) -> None:
    for _ in range(times):
        with work_folder("train@x", settings, []) as work:
            (work / "mine").touch(exist_ok=False)  # fails if another run is in the folder
            inside = journal / "inside"
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if another run of the stage is on
            inside.unlink()


@pytest.mark.parametrize("settings", ["aaa", "abc"])
def test_no_two_runs_of_a_stage_overlap(tmp_path: Path, settings: str) -> None:
    processes = [FORK.Process(target=_enter, args=(100, text, tmp_path)) for text in settings]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert not states()


def _enter_from(folder: Path, settings: str, journal: Path) -> None:
    folder.mkdir()
    os.chdir(folder)
    _enter(100, settings, journal)


def test_experiments_in_other_folders_share_the_state_of_their_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    processes = []
    for index, settings in enumerate("aabb"):
        (tmp_path / settings).mkdir(exist_ok=True)
        arguments = tmp_path / f"experiment{index}", settings, tmp_path / settings
        processes.append(FORK.Process(target=_enter_from, args=arguments))
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert not states()


def test_a_run_that_ends_while_another_looks_for_old_states(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = interrupted("a")

    @contextmanager
    def locked_late(path: Path, reason: str, *, wait: bool = True) -> Iterator[bool]:
        if not wait:  # the other's folder: it ends before its lock is asked for
            shutil.rmtree(ending)
        with locked(path, reason, wait=wait) as held:
            yield held

    monkeypatch.setattr("pipeline.work.locked", locked_late)
    with work_folder("train@x", "b", []):
        assert not ending.exists()
    assert not states()


def _hold(ready: Path, settings: str) -> None:
    with work_folder("train@x", settings, []) as work:
        (work / "state").write_text("held")
        ready.touch()
        time.sleep(60)


def held(tmp_path: Path, settings: str) -> multiprocessing.process.BaseProcess:
    """A process that is in the work folder until it is killed."""
    process = FORK.Process(target=_hold, args=(tmp_path / "ready", settings))
    process.start()
    while not (tmp_path / "ready").exists():
        assert process.is_alive()
        time.sleep(0.01)
    return process


def test_a_second_run_waits_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = held(tmp_path, "a")

    def kill_the_first(record: logging.LogRecord) -> bool:
        first.kill()
        return True

    caplog.handler.addFilter(kill_the_first)
    try:
        with work_folder("train@x", "a", []) as work:
            assert (work / "state").read_text() == "held"  # a kill frees the lock and keeps the state
    finally:
        caplog.handler.removeFilter(kill_the_first)
        first.kill()
    first.join()
    assert caplog.messages == ["waiting for another run of train@x"]
    assert not states()


def test_states_of_a_month_ago_are_removed_and_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    old, young, touched = interrupted("old"), interrupted("young"), interrupted("touched")
    age(old, 31)
    age(young, 29)
    age(touched, 31)
    (touched / "state").write_text("newer")
    with work_folder("train@x", "now", []):
        assert not old.exists()
        assert young.exists()
        assert touched.exists()
    assert caplog.messages == [f"removed {old}, what a killed run had left"]
    assert states() == {young.name, touched.name}


def test_the_newest_twenty_states_are_kept() -> None:
    folders = [interrupted(str(number)) for number in range(20)]
    for days, folder in enumerate(folders):
        age(folder, days / 2)
    with work_folder("train@x", "now", []) as work:
        assert states() >= {folder.name for folder in folders[:19]} | {work.name}
        assert not folders[19].exists()


def test_the_own_state_is_not_removed_however_old() -> None:
    own = interrupted("own")
    age(own, 400)
    with work_folder("train@x", "own", []) as work:
        assert (work / "state").exists()


def test_a_state_in_use_is_not_removed_however_old(tmp_path: Path) -> None:
    first = held(tmp_path, "a")
    (state,) = Path(".work").glob("train-x-*/")
    age(state, 400)
    with work_folder("train@y", "", []):
        assert (state / "state").exists()
    first.kill()
    first.join()
    with work_folder("train@y", "", []):
        assert not state.exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    Path(".work").touch()
    with pytest.raises(OSError, match=re.escape(".work")), work_folder("train@x", "", []):
        pass


@pytest.mark.parametrize("text", ["stages: {}", "stages: {train: {deps: [{a: {}}]}}", "stages: 5"])
def test_an_edited_dvc_yaml_is_named(text: str) -> None:
    Path("dvc.yaml").write_text(text)
    with pytest.raises(InputError, match=r"^dvc.yaml: the stage train has no list of files in deps"):
        code("train", "x")
