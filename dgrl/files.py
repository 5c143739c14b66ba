"""Files that exist whole or not at all: write beside them, then rename. Their locks, and their digests."""

import errno
import glob
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from dgrl.errors import InputError, find_os_error

_HAS_LOCKS = find_spec("fcntl") is not None  # not on Windows
if _HAS_LOCKS:
    import fcntl

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # by some network file systems

logger = logging.getLogger(__name__)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of ``path`` when the block ends without an error.

    A second writer of ``path`` waits.

    Raises:
        OSError: if the file cannot be written; it names ``path``.
    """
    with _building(path) as building:
        yield building
        _flush(building)
        building.replace(path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that takes the place of ``path`` if the block ends without an error.

    A second writer of ``path`` waits.

    Raises:
        OSError: if the folder or a file in it cannot be written; it names where it would have been.
    """
    with _building(path) as building:
        building.mkdir()
        yield building
        for entry in (*building.rglob("*"), building):
            _flush(entry)
        old = building.with_name(f"{path.name}.old")
        try:
            if os.path.lexists(path):
                path.rename(old)
            building.rename(path)
        except BaseException:
            if os.path.lexists(old) and not os.path.lexists(path):
                old.rename(path)
            raise


@contextmanager
def locked(path: Path, reason: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file ``path``, which no other process then holds, and which is gone afterwards.

    Args:
        path: the lock file; its folder must stay.
        reason: what is logged if another process holds it.
        wait: whether to wait for that process.

    Yields:
        Whether the lock is held: not where another process has it and ``wait`` is false, nor where the system
        or the file system has no such locks.

    Raises:
        OSError: if the lock file cannot be made.
    """
    if not _HAS_LOCKS:
        yield False
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with _opened(path) as lock:
            held = _lock(lock, reason, wait)
            if held and not _is_at(lock, path):
                continue  # who held it before has removed the file, and others lock a new one
            try:
                yield held
            finally:
                if held:
                    with suppress(OSError):  # a file that stays harms nobody
                        path.unlink()  # while it is locked: see above
                    fcntl.flock(lock, fcntl.LOCK_UN)  # forked processes have the descriptor too
            return


def beside(path: Path, suffix: str) -> Path:
    """The hidden file ``.<name><suffix>`` in the folder of a path.

    Raises:
        InputError: if the path is ``.``, ``..`` or ``/``, whose folder is another.
    """
    if path.name in ("", ".."):
        raise InputError(f"{str(path)!r} is no name to write to; give that of a file or folder in it")
    return path.with_name(f".{path.name}{suffix}")


def sha256(path: Path) -> str:
    """The SHA-256 of a file in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _building(path: Path) -> Iterator[Path]:
    """A free path of the same name in a temporary folder beside ``path``, which is its only writer's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = beside(path, ".lock")
    with locked(lock, f"waiting for another writer of {path}") as held:
        if held:  # then nobody writes what a killed process left
            for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(".tmp", f".{path.name}.", path.parent))
        building = folder / path.name
        try:
            yield building
            _flush(path.parent)
        except Exception as error:
            found = find_os_error(error)
            if found is None:
                raise
            name = path if found.filename is None else found.filename
            found.filename = str(name).replace(str(building), str(path))
            raise found from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _opened(lock: Path) -> Iterator[int]:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, reason: str, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if wait:
            logger.info(reason)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        return wait
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _flush(path: Path) -> None:
    """Have the disk hold a file's bytes, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a folder of some network file systems
            raise
    finally:
        os.close(descriptor)
