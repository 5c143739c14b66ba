"""A network that this project trained."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dgrl.embedders.protocol import Resolution, network_digest
from dgrl.errors import InputError
from dgrl.extractor import Extractor
from dgrl.images import Image
from dgrl.weights.published import trained_persons


class TrainedNetwork:
    """The ``model.safetensors`` of a run; HR and LR images go through stems of their own."""

    def __init__(self, path: Path, *, flip: bool = False) -> None:
        self.extractor = Extractor.load(path, flip=flip)
        self.name, self.digest = path.stem, network_digest([path], flip=flip)
        self.height, self.width = self.extractor.height, self.extractor.width
        self.megabytes = path.stat().st_size / 1e6
        self.trained_on = trained_persons(path)

    def embed(self, images: Sequence[Image], resolution: Resolution) -> npt.NDArray[np.float32]:
        """Embed images of any size; see ``protocol.Embedder``."""
        return self.extractor.embed(images, "sr" if resolution == "lr" else "hr")


def load_trained(path: Path, preprocessing: str | None, *, flip: bool = False) -> TrainedNetwork:
    """A network of a ``.safetensors`` file; see ``catalog.load_embedder``."""
    if preprocessing is not None:
        raise InputError(f"{path} knows its own preprocessing; leave @{preprocessing} out")
    return TrainedNetwork(path, flip=flip)
