"""A layer between the program and the disk: the n-th call of one kind fails, as on a full or broken disk.

``python tests/faults.py`` runs stages, each in a fork of its own process, which has imported all that they
need. It reads one case a line, a JSON object with the arguments of ``_run_case``, and answers each with one
line: the stage's exit status, the calls that were seen, and what the stage has said.
"""

import builtins
import ctypes
import importlib
import io
import json
import logging
import mmap
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import safetensors.numpy
import safetensors.torch
from safetensors import SafetensorError

# Where the calls of a kind pass: owner, name, and which argument is the path, if any. C++ and Rust write
# Parquet and safetensors files, so their calls are caught above them.
CALLS: dict[str, list[tuple[Any, str, int | None]]] = {
    "open": [
        (os, "open", 0),
        (io, "open", 0),
        (builtins, "open", 0),
        (pq.ParquetWriter, "__init__", 1),
        (pq.ParquetFile, "__init__", 1),
    ],
    "write": [  # and the write of every file that is opened
        (os, "sendfile", None),
        (pq.ParquetWriter, "write_table", None),
        (safetensors.numpy, "serialize_file", 1),
        (safetensors.torch, "serialize_file", 1),
    ],
    "flush": [],  # of every file that is opened or mapped, and its closing
    "fsync": [(os, "fsync", None)],
    "rename": [(os, "rename", 0), (os, "replace", 0)],
    "mkdir": [(os, "mkdir", 0)],
    "remove": [(os, "unlink", 0), (os, "remove", 0), (os, "rmdir", 0)],
    "mmap": [(os, "posix_fallocate", None)],  # and mmap itself, which is a class
}
METHODS = {"write": ["write", "writelines"], "flush": ["flush", "close"]}  # of files
IMPORTS = [
    "dgrl.superres.child", "dvc.scm", "pipeline.cache_sr", "pipeline.download", "pipeline.evaluate",
    "pipeline.pretrain_sr", "pipeline.split", "pipeline.train",
]  # fmt: skip
MAPPED = {"mmap": "__new__", "flush": "flush"}  # methods of mmap.mmap


class Result(NamedTuple):
    """How a stage has ended: its exit status, negative for a signal; the calls seen; its messages."""

    status: int
    seen: int
    said: str


class Stages:
    """Runs stages in another process; see the top of this file."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )

    def run(self, folder: Path, stage: str, kind: str = "open", call: int = 0, code: int = 0) -> Result:
        """Run ``dgrl`` with the words of ``stage`` in a folder; the call with that number from 1 fails."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        case = {"folder": str(folder), "words": stage.split(), "kind": kind, "call": call, "code": code}
        self._server.stdin.write(json.dumps(case) + "\n")
        self._server.stdin.flush()
        return Result(*json.loads(self._server.stdout.readline()))

    def close(self) -> None:
        """End the other process."""
        self._server.communicate()


class Faults:
    """Counts the calls of a kind, of this process and its forks, on files of the working directory."""

    def __init__(self, kind: str, call: int, code: int) -> None:
        self._call, self._code = call, code
        self._seen = ctypes.c_long.from_buffer(mmap.mmap(-1, ctypes.sizeof(ctypes.c_long)))  # forks share it
        self._home = f"{Path.cwd()}{os.sep}"
        if methods := METHODS.get(kind):
            for owner in (io, builtins):
                owner.open = self._wrap_file(owner.open, methods)  # type: ignore[attr-defined]
        if kind in MAPPED:
            method = self._wrap(getattr(mmap.mmap, MAPPED[kind]), None)
            mmap.mmap = type("mmap", (mmap.mmap,), {MAPPED[kind]: method})  # type: ignore[misc, assignment]
        for owner, name, path in CALLS[kind]:
            setattr(owner, name, self._wrap(getattr(owner, name), path, owner))

    @property
    def seen(self) -> int:
        return self._seen.value

    def _wrap(self, function: Callable[..., Any], path: int | None, owner: Any = None) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            named = arguments[path] if path is not None else None
            if path is None or self._is_ours(named):
                self._seen.value += 1
                if self._seen.value == self._call:
                    if function.__name__ == "close":
                        function(*arguments, **options)
                    raise self._error(owner, named)
            return function(*arguments, **options)

        return wrapped

    def _wrap_file(self, opened: Callable[..., Any], methods: list[str]) -> Callable[..., Any]:
        def wrapped(file: Any, *arguments: Any, **options: Any) -> Any:
            found = opened(file, *arguments, **options)
            if self._is_ours(file) and found.writable():
                for name in methods:
                    setattr(found, name, self._wrap(getattr(found, name), None))
            return found

        return wrapped

    def _is_ours(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(self._home)  # noqa: PTH100 (as the system reads it: links are not followed)

    def _error(self, owner: Any, path: Any) -> Exception:
        reason = os.strerror(self._code)
        if owner in (safetensors.numpy, safetensors.torch):
            return SafetensorError(f"I/O error: {reason} (os error {self._code})")
        return OSError(self._code, reason, *([] if path is None else [os.fspath(path)]))


class ForkedChild:
    """What ``subprocess.Popen`` is to RCAN's training, without the seconds that its imports take."""

    def __init__(self, command: list[str], **_: Any) -> None:
        read, write = os.pipe()
        if pid := os.fork():
            self._pid = pid
            os.close(write)
            self.stdout = os.fdopen(read, errors="replace")
            self.returncode: int | None = None
            return
        from dgrl.superres import child

        _redirect(write)
        logging.getLogger().handlers.clear()  # which a process of its own would not have
        sys.argv = command[2:]
        _leave(child.main)

    def __enter__(self) -> "ForkedChild":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stdout.close()
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)


def _redirect(descriptor: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())


def _leave(function: Callable[[], None]) -> None:
    """Call a function and end this process as Python would."""
    status = 0
    try:
        function()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run_case(folder: str, words: list[str], kind: str, call: int, code: int) -> Result:
    from dgrl.superres import pretrain
    from pipeline.cli import main

    os.chdir(folder)
    said = os.memfd_create("said")
    counted, answer = os.pipe()
    if not (pid := os.fork()):
        _redirect(said)
        pretrain.subprocess = SimpleNamespace(Popen=ForkedChild, PIPE=None, STDOUT=None)  # type: ignore[assignment]
        sys.argv = ["dgrl", *words]
        faults = Faults(kind, call, code)

        def run() -> None:
            try:
                main()
            finally:
                os.write(answer, b"%d" % faults.seen)

        _leave(run)
    os.close(answer)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seen = int(os.read(counted, 20) or 0)
    os.close(counted)
    with os.fdopen(said, errors="replace") as file:
        file.seek(0)
        return Result(status, seen, file.read())


def main() -> None:
    for name in IMPORTS:
        importlib.import_module(name)
    for line in sys.stdin:
        result = _run_case(**json.loads(line))
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
