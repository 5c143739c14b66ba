"""Checkpoints that survive a kill at any moment."""

import logging
from collections.abc import Mapping
from hashlib import file_digest, sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgrl.errors import DivergedError
from dgrl.files import atomic_file
from dgrl.weights.tensors import problem

DIGEST_BYTES = sha256().digest_size

logger = logging.getLogger(__name__)


def require_converged(weights: Mapping[str, Tensor], place: str, advice: str) -> None:
    """Raise a DivergedError if a weight is not finite.

    Args:
        weights: by name.
        place: the step and its learning rate, for the message.
        advice: what to do, for the message.
    """
    for name, tensor in weights.items():
        if found := problem(tensor):
            raise DivergedError(f"after {place} the tensor {name} {found}; {advice}")


def save_checkpoint(path: Path, state: dict[str, Any], place: str, advice: str) -> None:
    """Write ``state`` (tensors, numbers, strings, lists, dicts), whole or not at all.

    The SHA-256 of the file stands at its end: torch reads over it, and checks none of its own.

    Args:
        state: its entries ``model`` and ``average`` are the weights.
        place: as for ``require_converged``.
        advice: as for ``require_converged``.

    Raises:
        DivergedError: if a weight is not finite: the last good checkpoint stays.
    """
    for entry in ("model", "average"):
        require_converged(state.get(entry, {}), place, advice)
    with atomic_file(path) as building, building.open("w+b") as file:
        torch.save(state, file)  # into a file of Python's, which tells why it cannot be written
        file.seek(0)
        file.write(file_digest(file, sha256).digest())


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """What ``save_checkpoint`` wrote, on the CPU, or None if there is none or it is damaged.

    Never unpickles code. Of a damaged file the log warns: the run starts anew.
    """
    if not path.exists():
        return None
    content = memoryview(path.read_bytes())  # whose parts are no copies
    if sha256(content[:-DIGEST_BYTES]).digest() != content[-DIGEST_BYTES:]:
        logger.warning("%s is damaged; the run starts anew", path)
        return None
    state: dict[str, Any] = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    return state
