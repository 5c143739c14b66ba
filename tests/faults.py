"""A layer between the program and the disk: the n-th call of one kind fails, as on a full or broken disk."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow.parquet as pq
import pytest

# Where the calls of a kind pass. Parquet files are written by C++, so their writes are caught above it.
CALLS: dict[str, list[tuple[Any, str]]] = {
    "open": [(os, "open"), (io, "open")],
    "write": [(pq.ParquetWriter, "write_table")],  # and the write of every file that io.open opens
    "fsync": [(os, "fsync")],
    "rename": [(os, "rename"), (os, "replace")],
    "mkdir": [(os, "mkdir")],
    "remove": [(os, "unlink"), (os, "rmdir")],
}


class Faults:
    """Counts the calls of a kind.

    Attributes:
        seen: how many there were.
    """

    def __init__(self, call: int, code: int) -> None:
        self.seen = 0
        self._call, self._code = call, code

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which fails when it is the call that shall."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.seen += 1
            if self.seen == self._call:
                named = [entry for entry in arguments[:1] if isinstance(entry, str | os.PathLike)]
                raise OSError(self._code, os.strerror(self._code), *map(os.fspath, named))
            return function(*arguments, **options)

        return wrapped

    def wrap_writes(self, opened: Callable[..., Any]) -> Callable[..., Any]:
        """``io.open``, with files whose writes are counted."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            file = opened(*arguments, **options)
            if file.writable():
                file.write = self.wrap(file.write)
            return file

        return wrapped


@contextmanager
def failing(kind: str, call: int, code: int) -> Iterator[Faults]:
    """Have the ``call``-th call, from 1, of a kind fail with the error ``code``; 0 for none."""
    faults = Faults(call, code)
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CALLS[kind]:
            patch.setattr(owner, name, faults.wrap(getattr(owner, name)))
        if kind == "write":
            patch.setattr(io, "open", faults.wrap_writes(io.open))
        yield faults
