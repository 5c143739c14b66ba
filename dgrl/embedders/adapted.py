"""An embedder with a whitening behind it, and the whitening's file."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dgrl.datasets.archive import require_readable
from dgrl.embedders.protocol import Embedder, Resolution
from dgrl.errors import InputError, one_line
from dgrl.evaluation.adaptation import Side, Whitening
from dgrl.files import atomic_file
from dgrl.images import Image

ENTRY = "dgrl.whitening"  # of the file's header
TENSORS = ("query_mean", "gallery_mean", "matrix")


class Adapted:
    """A network and the whitening of its cameras: LR images as queries, HR ones as gallery."""

    def __init__(self, network: Embedder, whitening: Whitening) -> None:
        self.network, self.whitening = network, whitening
        self.name = f"{network.name}, whitened"
        parts = (network.digest.encode(), *(getattr(whitening, name).tobytes() for name in TENSORS))
        self.digest = hashlib.sha256(b"".join(parts)).hexdigest()  # not the plain one's
        self.height, self.width = network.height, network.width
        self.megabytes, self.trained_on = network.megabytes, network.trained_on

    def embed(self, images: Sequence[Image], resolution: Resolution) -> npt.NDArray[np.float32]:
        """Embed images of any size; see ``protocol.Embedder``."""
        side: Side = "query" if resolution == "lr" else "gallery"
        return self.whitening.apply(self.network.embed(images, resolution), side)


def save_whitening(path: Path, whitening: Whitening, network: str, *, flip: bool) -> None:
    """Write a whitening, with the network's digest and the ``flip`` that it was fitted with."""
    header = {"network": network, "flip": flip, "shrinkage": whitening.shrinkage, "pairs": whitening.pairs}
    tensors = {name: np.ascontiguousarray(getattr(whitening, name)) for name in TENSORS}
    with atomic_file(path) as building:
        save_file(tensors, building, {ENTRY: json.dumps(header)})


def load_whitening(path: Path, network: Embedder, *, flip: bool) -> Whitening:
    """The whitening that ``save_whitening`` wrote.

    Raises:
        InputError: if the file is missing, damaged, or belongs to another network or another ``flip``.
    """
    require_readable(path)
    try:
        with safe_open(path, "numpy") as file:
            header = json.loads((file.metadata() or {})[ENTRY])
            query_mean, gallery_mean, matrix = (file.get_tensor(name) for name in TENSORS)
        whitening = Whitening(query_mean, gallery_mean, matrix, header["shrinkage"], header["pairs"])
        belongs, fitted = header["network"], header["flip"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is no whitening, or damaged ({one_line(error)}); adapt again") from None
    if fitted != flip:
        raise InputError(f"{path} was fitted with flip = {fitted}, not {flip}; embed as it was fitted")
    if belongs != network.digest:
        raise InputError(f"{path} belongs to another network than {network.name}; adapt this one")
    size = network.embed([], "hr").shape[1]
    if not (query_mean.shape == gallery_mean.shape == (size,) and matrix.shape == (size, size)):
        raise InputError(f"{path}: its means and its matrix do not fit the network; adapt again")
    if not all(np.isfinite(array).all() for array in (query_mean, gallery_mean, matrix)):
        raise InputError(f"{path} has values that are not finite; adapt again")
    return whitening
