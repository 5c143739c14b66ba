"""The weights a network starts from: ImageNet's, those of another project's ResNet, or an earlier run's.

A network is built with random weights; ``initialise`` then overwrites every tensor that the file has under
the same name and in the same shape. What the network copies from a ResNet (both stems, the side branches) is
looked for under its own name first and under torchvision's name of the original second: so a plain ResNet
fills all copies, and an earlier run without side branches fills those of a network that has them.
"""

import logging
import os
import pickle
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from dgrl.errors import InputError
from dgrl.files import sha256
from dgrl.model.network import DGRL
from dgrl.model.params import BackboneName, ModelParams
from dgrl.random import named_seed
from dgrl.weights.tensors import problem, read_safetensors

State = Mapping[str, Tensor]

FIRST_BLOCK = "layer1.0.conv1.weight"  # in every ResNet, and in DGRL
COPIES = {  # what the network copies, by its own name: torchvision's name of the original
    "stems.hr.stem.0": "conv1",
    "stems.hr.stem.1": "bn1",
    "stems.sr.stem.0": "conv1",
    "stems.sr.stem.1": "bn1",
    "side2.0": "layer3",
    "side2.1": "layer4",
    "side3.0": "layer4",
}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHOWN = 12  # modules named in the log

# torchreid and OpenReID keep Rank-1 beside the weights, as a NumPy number, which is no code. NumPy 2 moved
# the function that makes one.
_SCALAR: Any = np.float64(0).__reduce__()[0]
_NUMPY_NUMBERS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i8")),
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Match:
    """Which tensors of a file fit a network.

    Attributes:
        taken: name in the network -> name in the file.
        unused: names in the file.
        random: names in the network, which stay as they were drawn.
    """

    taken: dict[str, str]
    unused: list[str]
    random: list[str]


def initialise(model: nn.Module, params: ModelParams) -> Match:
    """Overwrite the weights of a network just built, in place, by those that ``model.weights`` names.

    Args:
        model: a ``DGRL`` of ``params``.
        params: the ``model`` section.

    Returns:
        What was taken, which is logged too; nothing for ``none``.

    Raises:
        InputError: if the file is missing, damaged, holds code, has less than half of the backbone, or
            weights that are not dense, finite floating-point numbers.
    """
    network = _without_counters(model.state_dict())
    if params.weights == "none":
        return Match({}, [], list(network))
    path = params.weights_file or imagenet_file(params.backbone)
    file = read_weights(path)
    match = match_weights(network, file)
    _require_backbone(match, network, path, params.backbone)
    _require_weights({source: file[source] for source in match.taken.values()}, path)
    with torch.no_grad():
        for name, source in match.taken.items():
            network[name].copy_(file[source])
    logger.info("weights of %s (SHA-256 %s): %s", path, sha256(path), _report(match))
    return match


def build(params: ModelParams, persons: int, seed: int) -> DGRL:
    """The network that a run starts from: random weights named by ``seed``, then those of ``model.weights``.

    Raises:
        InputError: as ``initialise``.
    """
    torch.manual_seed(named_seed("network", seed))
    model = DGRL(params, persons)
    initialise(model, params)
    return model


def match_weights(network: State, file: State) -> Match:
    """Find for each tensor of a network the one of a file that it can start from."""
    sources = {common: name for name, common in _common_names(file).items()}
    taken = {}
    for name, common in _common_names(network).items():
        for wanted in (common, _resnet_name(common)):
            source = sources.get(wanted)
            if source is not None and file[source].shape == network[name].shape:
                taken[name] = source
                break
    used = set(taken.values())
    return Match(taken, [name for name in file if name not in used], [n for n in network if n not in taken])


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, without what stands in their names before those of the ResNet.

    Args:
        path: safetensors, or a torch file with a state dict, alone or in a checkpoint: of torchvision,
            fast-reid (``model``, ``backbone.``), torchreid or OpenReID (``state_dict``, ``module.``).

    Raises:
        InputError: if the file is missing, damaged, holds code or no ResNet.
    """
    require_file(path)
    content = read_safetensors(path)[0] if path.suffix == ".safetensors" else _load_torch(path)
    found = _find_resnet(content)
    if found is None:
        raise InputError(
            f"{path} holds no ResNet with torchvision's names: no tensor is called {FIRST_BLOCK}, "
            "whatever stands before it"
        )
    state, prefix = found
    tensors = {
        str(name).removeprefix(prefix): value for name, value in state.items() if isinstance(value, Tensor)
    }
    return _without_counters(tensors)


def require_file(path: Path) -> None:
    """Raise an InputError that names ``model.weights`` if there is no such file, or it may not be read."""
    if not path.is_file():
        raise InputError(
            f"model.weights = '{path}': there is no such file; allowed: imagenet, none, or a file"
        )
    if not os.access(path, os.R_OK):
        raise InputError(f"model.weights = '{path}': no permission to read it; give yourself that right")


def imagenet_file(backbone: BackboneName) -> Path:
    """torchvision's IMAGENET1K_V1 weights in torch's hub cache, fetched where it lacks them, and checked.

    Raises:
        InputError: if they cannot be fetched, or the file has not the SHA-256 that its name begins to say.
    """
    url = torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    expected = path.stem.rpartition("-")[2]
    if not path.exists():
        _download(url, path, expected)
    digest = sha256(path)
    if not digest.startswith(expected):
        raise InputError(
            f"{path} is damaged: its SHA-256 is {digest} and does not begin with {expected}; delete it, so "
            "that it is fetched again"
        )
    return path


def _download(url: str, path: Path, expected: str) -> None:
    logger.info("fetching %s", url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=expected, progress=sys.stderr.isatty())
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the digest is another
        raise InputError(
            f"model.weights = 'imagenet': {url} cannot be fetched ({error}); go online once, put the file at "
            f"{path}, or set model.weights to none"
        ) from None


def _require_weights(taken: State, path: Path) -> None:
    """Refuse what a network would take and cannot compute with."""
    for name, tensor in taken.items():
        wrong = problem(tensor) or (None if tensor.dtype in FLOATS else f"holds {tensor.dtype}")
        if wrong:
            raise InputError(
                f"{path}: the tensor {name} {wrong}; save its weights as dense, finite floating-point numbers"
            )


def _load_torch(path: Path) -> Any:
    """What ``torch.save`` wrote, by torch's unpickler that runs no code."""
    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and unsafe:
            raise InputError(
                f"{path} holds code ({unsafe[1]}), which is not run; where the file comes from, save "
                "the state dict alone: torch.save(model.state_dict(), file)"
            ) from None
        raise InputError(f"{path} is damaged or no torch file ({type(error).__name__})") from None


def _find_resnet(content: object) -> tuple[Mapping[Any, Any], str] | None:
    """The state dict of a checkpoint, and what its names have before those of the ResNet."""
    if not isinstance(content, Mapping):
        return None
    for state in (content, *content.values()):
        for name in state if isinstance(state, Mapping) else ():
            if str(name).endswith(FIRST_BLOCK):
                return state, str(name).removesuffix(FIRST_BLOCK)
    return None


def _without_counters(state: State) -> dict[str, Tensor]:
    """Without the batch norms' num_batches_tracked: older files lack them, and nothing reads them."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def _common_names(names: Iterable[str]) -> dict[str, str]:
    """For each name in a network the one that it has whatever components are on.

    A non-local block stands in its layer among the residual blocks and moves those behind it on: with it
    ``layer2.2`` may be what ``layer2.1`` is without. Residual blocks are counted as torchvision does, and a
    non-local block is named by the residual block before it.
    """
    names = list(names)
    non_local = {name.removesuffix(".theta.weight") for name in names if name.endswith(".theta.weight")}
    common = {}
    for name in names:
        common[name] = name
        if found := re.match(r"(layer\d)\.(\d+)\.", name):
            layer, index, rest = found[1], int(found[2]), name[found.end() :]
            block = index - sum(f"{layer}.{before}" in non_local for before in range(index))
            common[name] = f"{layer}.{block}.{rest}"
            if f"{layer}.{index}" in non_local:
                common[name] = f"non_local.{layer}.{block - 1}.{rest}"
    return common


def _resnet_name(common: str) -> str:
    """torchvision's name of the original of a copy; any other name as it is."""
    for copy, original in COPIES.items():
        if common.startswith(f"{copy}."):
            return original + common.removeprefix(copy)
    return common


def _require_backbone(match: Match, network: State, path: Path, backbone: BackboneName) -> None:
    """Refuse a file of another architecture; warn where only a part of it fits."""
    parts = ("conv1.", "bn1.", "layer")
    wanted = [
        name for name, common in _common_names(network).items() if _resnet_name(common).startswith(parts)
    ]
    fitting = sum(name in match.taken for name in wanted)
    found = f"{fitting} of the {len(wanted)} tensors of {backbone} are in {path} with the same name and shape"
    if 2 * fitting < len(wanted):
        raise InputError(
            f"model.weights: only {found}; give another file, or its architecture in model.backbone"
        )
    if fitting < len(wanted):
        logger.warning("only %s; the others stay random", found)
    common = _common_names(match.unused)
    if deeper := [name for name in match.unused if common[name].startswith("layer")]:
        logger.warning("%s has more than %s; unused: %s", path, backbone, _modules(deeper))


def _report(match: Match) -> str:
    parts = [f"{len(match.taken)} tensors taken"]
    parts += [
        f"{len(names)} {what} ({_modules(names)})"
        for names, what in (
            (match.unused, "of the file unused"),
            (match.random, "of the network stay random"),
        )
        if names
    ]
    return "; ".join(parts)


def _modules(names: list[str]) -> str:
    """The modules that own the tensors, the first few of them."""
    modules = list(dict.fromkeys(".".join(name.split(".")[:-1][:3]) for name in names))
    return ", ".join(modules[:SHOWN] + ["..."] * (len(modules) > SHOWN))
