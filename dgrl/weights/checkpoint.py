"""Checkpoints that survive a kill at any moment."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from dgrl.errors import InputError
from dgrl.files import atomic_file


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists, dicts), whole or not at all."""
    with atomic_file(path) as building, building.open("wb") as file:
        torch.save(state, file)  # into a file of Python's, which tells why it cannot be written


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """What ``save_checkpoint`` wrote, on the CPU, or None if there is none. Never unpickles code.

    Raises:
        InputError: if the file is damaged.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError):
        raise InputError(f"{path} is damaged; delete it, and the run starts anew") from None
    return state
