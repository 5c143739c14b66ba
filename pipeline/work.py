"""Resume state outside of DVC's outputs, which DVC deletes before a rerun."""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dgrl.errors import InputError
from dgrl.files import locked, sha256
from pipeline.params_file import read_yaml

KEPT_STATES = 20  # of killed runs, the newest
KEPT_DAYS = 30

logger = logging.getLogger(__name__)


@contextmanager
def work_folder(stage: str, settings: str, inputs: Iterable[Path]) -> Iterator[Path]:
    """A folder that a killed run of the same stage, with the same settings and inputs, finds again.

    It is named by the digest of all that the result depends on, so a new parameter never picks up an old
    state; it is locked against a second run, which waits; and deleted when the block ends without an error.
    Nor do two runs of the stage in this folder of the project overlap, whatever their settings: they write
    the same outputs.

    Args:
        stage: its name, with the dataset: ``train@viper``.
        settings: the parameters, as text.
        inputs: the files and folders that are read, code included.

    Raises:
        InputError: if an input does not exist.
        OSError: if the folder cannot be made.
    """
    name, reason = stage.replace("@", "-"), f"waiting for another run of {stage}"
    root = Path(os.environ.get("DVC_ROOT", ".")) / ".work"  # which experiments in other folders share
    with locked(Path(".work") / f"{name}.lock", reason):
        folder = root / f"{name}-{_digest(settings, inputs)[:16]}"
        with locked(_lock(folder), reason):
            folder.mkdir(parents=True, exist_ok=True)
            _prune(root, keep=folder)
            yield folder
            shutil.rmtree(folder)


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")  # outside of what is deleted


def _prune(root: Path, keep: Path) -> None:
    """Delete what runs left that were killed long ago or often, unless it is in use."""
    with ExitStack() as locks:
        idle = [
            (_last_change(folder), folder)
            for folder in root.iterdir()
            if folder.is_dir()
            and folder != keep
            and locks.enter_context(locked(_lock(folder), "", wait=False))
            and folder.is_dir()  # still: its run may have ended before the lock was taken
        ]
        idle.sort(reverse=True)
        for rank, (changed, folder) in enumerate(idle, start=1):
            if rank >= KEPT_STATES or changed < time.time() - KEPT_DAYS * 24 * 3600:
                shutil.rmtree(folder, ignore_errors=True)
                logger.info("removed %s, what a killed run had left", folder)


def _last_change(folder: Path) -> float:
    """Seconds since the epoch."""
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def code(stage: str, dataset: str) -> list[Path]:
    """The code that a stage depends on: its dependencies in dvc.yaml, less the data that stages write."""
    content: Any = read_yaml(Path("dvc.yaml"))
    try:
        deps = content["stages"][stage]["deps"]
        paths = [Path(dep.replace("${item.dataset}", dataset)) for dep in deps]
    except (LookupError, TypeError, AttributeError):
        raise InputError(
            f"dvc.yaml: the stage {stage} has no list of files in deps; restore the file from git"
        ) from None
    return [path for path in paths if path.parts[0] != "data" or "code" in path.parts]


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
