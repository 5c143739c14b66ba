"""Resume state outside of DVC's outputs, which DVC deletes before a rerun."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dgrl.errors import InputError
from dgrl.files import sha256
from pipeline.params_file import read_yaml


@contextmanager
def work_folder(stage: str, settings: str, inputs: Iterable[Path]) -> Iterator[Path]:
    """A folder that a killed run of the same stage, with the same settings and inputs, finds again.

    It is named by the digest of all that the result depends on, so a new parameter never picks up an old
    state; it is locked against a second run, and deleted when the block ends without an error.

    Args:
        stage: its name, with the dataset.
        settings: the parameters, as text.
        inputs: the files and folders that are read, code included.

    Raises:
        InputError: if another process is running the stage.
    """
    folder = Path(os.environ.get("DVC_ROOT", ".")) / ".work" / f"{stage}-{_digest(settings, inputs)[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder.with_suffix(".lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{stage} is already running with the same parameters (lock {lock}); wait for it to end"
            ) from None
        yield folder
        shutil.rmtree(folder)
        lock.unlink()


def code(stage: str) -> list[Path]:
    """The code that a stage depends on: its dependencies in dvc.yaml, less those that other stages write."""
    deps = read_yaml(Path("dvc.yaml"))["stages"][stage]["deps"]
    return [Path(dep) for dep in deps if not dep.startswith("data/")]


def _digest(settings: str, inputs: Iterable[Path]) -> str:
    digest = hashlib.sha256(settings.encode())
    for path in inputs:
        if not path.exists():
            raise InputError(f"{path} does not exist; run the stage that writes it (dvc repro)")
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            if "__pycache__" not in file.parts:
                digest.update(file.name.encode())
                digest.update(bytes.fromhex(sha256(file)))
    return digest.hexdigest()
