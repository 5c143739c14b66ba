"""Checkpoints that survive a kill at any moment."""

import logging
from pathlib import Path
from typing import Any

import torch

from dgrl.files import atomic_file
from dgrl.weights.tensors import require_finite

logger = logging.getLogger(__name__)

DIVERGED = "the run diverged; lower train.learning_rate or raise train.warmup_epochs"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists, dicts), whole or not at all.

    Raises:
        InputError: if a tensor of its entries ``model`` and ``average`` is not finite: the last good
            checkpoint stays.
    """
    for entry in ("model", "average"):
        require_finite(state.get(entry, {}), f"step {state.get('step')}, {entry} ({DIVERGED})")
    with atomic_file(path) as building, building.open("wb") as file:
        torch.save(state, file)  # into a file of Python's, which tells why it cannot be written


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """What ``save_checkpoint`` wrote, on the CPU, or None if there is none or it is damaged.

    Never unpickles code. Of a damaged file the log warns: the run starts anew.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged pickle raises anything
        logger.warning("%s is damaged; the run starts anew", path)
        return None
    return state
