"""Files and folders that exist whole or not at all, whoever else writes them; and their locks."""

import errno
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dgrl import files as module
from dgrl.errors import InputError, explain
from dgrl.files import atomic_file, atomic_folder, locked

FORK = multiprocessing.get_context("fork")


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_new_file_replaces_the_old_one_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep/er/file.json"
    for text in ("old", "new"):
        with atomic_file(target) as building:
            building.write_text(text)
        assert target.read_text() == text
    assert [path.name for path in target.parent.iterdir()] == ["file.json"]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    target.write_text("old")
    with atomic_file(target) as building:
        building.write_text("half")
        assert target.read_text() == "old"


@pytest.mark.parametrize("old", [None, "old"])
def test_a_failed_file_leaves_what_was_there(tmp_path: Path, old: str | None) -> None:
    target = tmp_path / "file.json"
    if old:
        target.write_text(old)
    before = files(tmp_path)
    with pytest.raises(KeyboardInterrupt), atomic_file(target) as building:  # noqa: PT012
        building.write_text("half")
        raise KeyboardInterrupt
    assert files(tmp_path) == before


def test_a_new_folder_replaces_the_old_one_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep/er/folder"
    for name in ("old", "new"):
        with atomic_folder(target) as building:
            (building / "sub").mkdir()
            (building / "sub" / name).write_text(name)
        assert files(target) == {f"sub/{name}": name.encode()}
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("old", [None, "old"])
def test_a_failed_folder_leaves_what_was_there(tmp_path: Path, old: str | None) -> None:
    target = tmp_path / "folder"
    if old:
        target.mkdir()
        (target / "file").write_text(old)
    before = files(tmp_path)
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as building:  # noqa: PT012
        (building / "file").write_text("half")
        assert files(target) == ({"file": b"old"} if old else {})
        raise KeyboardInterrupt
    assert files(tmp_path) == before
    assert list(tmp_path.iterdir()) == ([target] if old else [])


def test_a_folder_that_cannot_be_moved_in_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "file").write_text("old")
    rename, moved = Path.rename, []

    def failing(self: Path, to: Path) -> Path:
        moved.append(to)
        if len(moved) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output"), atomic_folder(target) as building:
        (building / "file").write_text("new")
    assert files(tmp_path) == {"folder/file": b"old"}


@pytest.mark.parametrize("make", [atomic_file, atomic_folder])
def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path, make: Any) -> None:
    code = (
        "import os, sys; from pathlib import Path; from dgrl.files import atomic_file, atomic_folder\n"
        f"with {make.__name__}(Path(sys.argv[1])) as building:\n"
        "    (building / 'stale' if building.is_dir() else building).write_text('stale')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    target = tmp_path / "out[1]"
    subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    (left,) = tmp_path.glob(".*.tmp")
    (tmp_path / ".out[1]2.abc.tmp").mkdir()  # of another output
    with make(target) as building:
        assert not left.exists()
        (building / "fresh" if building.is_dir() else building).write_text("fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out[1]2.abc.tmp", "out[1]"]
    assert list(files(target).values() if target.is_dir() else [target.read_bytes()]) == [b"fresh"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_outputs_have_the_permissions_of_any_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_file(tmp_path / "file") as building:
            building.touch()
        with atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("old")
    (tmp_path / "folder").symlink_to("elsewhere")
    with atomic_folder(tmp_path / "folder") as building:
        (building / "file").write_text("new")
    assert files(tmp_path) == {"elsewhere/file": b"old", "folder/file": b"new"}


@pytest.mark.parametrize("nested", [False, True])
def test_a_failed_write_names_the_output_and_not_the_temporary_file(tmp_path: Path, nested: bool) -> None:
    target = tmp_path / "file"
    with pytest.raises(OSError, match="No space") as raised:  # noqa: PT012
        if nested:
            with atomic_folder(target) as building, atomic_file(building / "shard"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        else:
            with atomic_file(target):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    name = f"{target}/shard" if nested else str(target)
    said = f"the disk is full (No space left on device): {name}"
    assert explain(raised.value) == explain(pickle.loads(pickle.dumps(raised.value))) == said


def test_an_input_error_that_an_os_error_led_to_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^no table$"), atomic_file(tmp_path / "file"):  # noqa: PT012
        try:
            raise OSError(errno.EIO, "damaged")
        except OSError:
            raise InputError("no table")  # noqa: B904


def _write_often(target: Path, process: int) -> None:
    for _ in range(30):
        with atomic_folder(target) as building:
            for shard in range(4):
                (building / f"{shard}").write_text(str(process))


def test_several_writers_leave_the_whole_folder_of_one(tmp_path: Path) -> None:
    writers = [FORK.Process(target=_write_often, args=(tmp_path / "t", process)) for process in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(files(tmp_path / "t")) == 4
    assert len(set(files(tmp_path / "t").values())) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "t"]


# Locks


def _enter_often(lock: Path, inside: Path) -> None:
    for _ in range(100):
        with locked(lock, "waiting") as held:
            assert held
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if another process is inside
            inside.unlink()


def test_no_two_processes_hold_a_lock(tmp_path: Path) -> None:
    processes = [
        FORK.Process(target=_enter_often, args=(tmp_path / "lock", tmp_path / "inside")) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert list(tmp_path.iterdir()) == []


def test_who_does_not_want_to_wait_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with locked(tmp_path / "lock", "waiting", wait=False) as first:
        with locked(tmp_path / "lock", "waiting", wait=False) as second:
            assert (first, second) == (True, False)
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()


def test_a_lock_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("text")
    (tmp_path / "lock").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "lock", "waiting"):
        pass
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").hardlink_to(tmp_path / "precious")
    with locked(tmp_path / "lock", "waiting"):
        pass
    assert (tmp_path / "precious").read_text() == "text"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_without_locks_outputs_are_still_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module.fcntl, "flock", unsupported)
    with locked(tmp_path / "lock", "waiting") as held:
        assert not held
    with atomic_file(tmp_path / "file") as building:
        building.write_text("new")
    assert (tmp_path / "file").read_text() == "new"


def test_a_system_without_fcntl_writes_files_too(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from pathlib import Path; from dgrl.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as building:\n"
        "    building.write_text('new')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], check=True)
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("path", [".", "..", "/"])
@pytest.mark.parametrize("write", [atomic_file, atomic_folder])
def test_a_path_without_a_name_of_its_own(path: str, write: Any) -> None:
    with pytest.raises(InputError, match="is no name to write to"), write(Path(path)):
        pass
