"""Networks in safetensors files, checked on the way in and on the way out."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dgrl.errors import InputError, MissingError, one_line

T = TypeVar("T")


def problem(tensor: Tensor) -> str | None:
    """What is wrong with a tensor that should be a weight, None if nothing is; integers pass."""
    if tensor.is_meta:
        return "has a shape and no values (it was saved on the meta device)"
    if tensor.layout != torch.strided:
        return "is sparse, not dense"
    if tensor.is_quantized:
        return "is quantised"
    if tensor.is_floating_point() and not tensor.float().isfinite().all():
        return "has values that are not finite"
    return None


def require_sound(state: Mapping[str, Tensor], name: str) -> None:
    """Raise an InputError that names the first tensor with a ``problem``; ``name`` is what they are of."""
    for key, tensor in state.items():
        if found := problem(tensor):
            raise InputError(f"{name}: the tensor {key} {found}")


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, on the CPU, and the entries of its header.

    Raises:
        InputError: if the file is missing, unreadable or damaged.
    """
    try:
        path.open("rb").close()  # Python says why it cannot be read
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            return tensors, file.metadata() or {}
    except FileNotFoundError:
        raise MissingError(f"{path} does not exist; write it first") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    except SafetensorError as error:
        raise InputError(
            f"{path} is damaged or no safetensors file ({one_line(error)}); write it again"
        ) from None


def read_tensors(path: Path, entry: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file, on the CPU, and what its header has in JSON under ``entry``.

    Raises:
        InputError: if the file is missing, damaged or without such an entry.
    """
    tensors, header = read_safetensors(path)
    if entry not in header:
        raise InputError(f"{path}: its header has no entry {entry!r}; it is another kind of file")
    try:
        config = json.loads(header[entry])
    except (ValueError, RecursionError):
        config = None
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
    """Make ``tensors`` the weights of a network, which may be on the meta device.

    They must have the same names, shapes and types, and be finite.

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
    require_sound(tensors, str(path))
    network.load_state_dict(dict(tensors), assign=True)
