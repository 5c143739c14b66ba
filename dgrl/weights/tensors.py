"""Networks in safetensors files, checked on the way in and on the way out."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dgrl.errors import InputError

T = TypeVar("T")


def require_finite(state: Mapping[str, Tensor], name: str) -> None:
    """Raise an InputError that names the first tensor with a value that is not finite.

    Args:
        state: tensors by name; those of integers are passed over.
        name: what they are of, for the message.
    """
    for key, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"{name}: the tensor {key} has values that are not finite")


def read_tensors(path: Path, entry: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file, on the CPU, and what its header has in JSON under ``entry``.

    Raises:
        InputError: if the file is missing, damaged or without such an entry.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            config = json.loads((file.metadata() or {})[entry])
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run the stage that writes it") from None
    except KeyError:
        raise InputError(f"{path}: its header has no entry {entry!r}; it is another kind of file") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is damaged or no safetensors file ({problem}); write it again") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: the entry {entry!r} of its header is no JSON object; write it again")
    return tensors, config


def build_empty(build: Callable[[], T], path: Path) -> T:
    """The network that ``build`` makes as a file's header says, without memory for its weights.

    Raises:
        InputError: if there is no such network.
    """
    try:
        with torch.device("meta"):  # the header may ask for more memory than there is
            return build()
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError):
        raise InputError(f"{path}: its header describes no network; write the file again") from None


def load_into(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Take all weights of a network from ``tensors``: same names, shapes and kinds, and finite.

    Raises:
        InputError: naming the file and the first tensor that does not fit.
    """
    wanted = network.state_dict()
    for name in sorted(wanted.keys() ^ tensors.keys()):
        problem = "is missing" if name in wanted else "is none of this network's"
        raise InputError(f"{path}: the tensor {name} {problem}; write the file again")
    for name, tensor in tensors.items():
        found, expected = (tuple(tensor.shape), tensor.dtype), (tuple(wanted[name].shape), wanted[name].dtype)
        if found != expected:
            raise InputError(f"{path}: the tensor {name} is {found}, not {expected}; write the file again")
    require_finite(tensors, str(path))
    network.load_state_dict(dict(tensors), assign=True)
