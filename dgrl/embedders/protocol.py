"""What every embedder can do."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from dgrl.files import sha256
from dgrl.images import Image

Resolution = Literal["hr", "lr"]


class Embedder(Protocol):
    """A network that is ready to embed images.

    Attributes:
        name: for tables: the file's name without its suffix.
        digest: by which an index, a whitening or a calibration knows the network that it belongs to.
        height, width: of the network's input, in pixels.
        megabytes: size of the file or files.
        trained_on: ``<dataset>/<person>`` of the persons that it learned from, as far as its file says.
    """

    name: str
    digest: str
    height: int
    width: int
    megabytes: float
    trained_on: frozenset[str]

    def embed(self, images: Sequence[Image], resolution: Resolution) -> npt.NDArray[np.float32]:
        """Embed images of any size.

        Args:
            images: uint8 RGB, [H, W, 3] each.
            resolution: what the images are; a network with one input for both does not tell them apart.

        Returns:
            [N, D] float32, rows of unit length: their dot products are cosine similarities.

        Raises:
            InputError: naming the index of the first that is no such array.
        """
        ...


def network_digest(files: Sequence[Path], *, flip: bool) -> str:
    """The SHA-256 that identifies a network and its embeddings.

    That of its file, if it is one and ``flip`` is not set; else that of the files' digests and of ``flip``.

    Args:
        files: the network's; OpenVINO keeps the weights in a second one.
        flip: whether it embeds an image as the sum of itself and its mirror image, so to other embeddings.
    """
    parts = [sha256(file) for file in files] + ["flip"] * flip
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()
