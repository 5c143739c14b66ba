"""Pictures in, embeddings out: the door for other programs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dgrl.device import default_device
from dgrl.images import Image
from dgrl.model.network import DGRL, Stream
from dgrl.progress import track
from dgrl.training.augment import normalise
from dgrl.training.checkpoint import load_model
from dgrl.training.image_bank import resize


class Extractor:
    """A trained network, ready to embed.

    >>> extractor = Extractor.load(Path("data/viper/dgrl/model.safetensors"))  # doctest: +SKIP
    >>> queries = extractor.embed(low_resolution_pictures, "sr")  # doctest: +SKIP
    >>> gallery = extractor.embed(high_resolution_pictures, "hr")  # doctest: +SKIP
    >>> similarity = queries @ gallery.T  # doctest: +SKIP
    """

    def __init__(self, model: DGRL, height: int, width: int, *, flip: bool = False, batch: int = 64) -> None:
        self.device = default_device()
        self.model = model.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.height, self.width, self.flip, self.batch = height, width, flip, batch

    @classmethod
    def load(cls, path: Path, *, flip: bool = False, batch: int = 64) -> "Extractor":
        """Load the ``model.safetensors`` of a training.

        Args:
            path: the file.
            flip: average the embeddings of a picture and of its mirror image.
            batch: pictures at once.

        Raises:
            InputError: if the file is missing or not one of DGRL's.
        """
        model, params = load_model(path)
        return cls(model, params.height, params.width, flip=flip, batch=batch)

    def embed(self, images: Sequence[Image], stream: Stream) -> npt.NDArray[np.float32]:
        """Embed pictures of any size.

        Args:
            images: uint8 RGB, [H, W, 3] each.
            stream: ``hr`` for high-resolution pictures, ``sr`` for restored (super-resolved) ones.

        Returns:
            [N, D] float32, rows of unit length: their dot products are cosine similarities.
        """
        resized = np.stack([resize(image, self.height, self.width) for image in images])
        return self.embed_tensor(torch.from_numpy(resized).permute(0, 3, 1, 2), stream)

    def embed_tensor(self, images: Tensor, stream: Stream) -> npt.NDArray[np.float32]:
        """Embed [N, 3, height, width] uint8 pictures that have the network's size already."""
        parts = []
        starts = range(0, len(images), self.batch)
        with torch.inference_mode():
            for start in track(starts, f"embed {stream}", len(starts), "batch"):
                batch = normalise(images[start : start + self.batch].to(self.device))
                embedding = self.model.embed(batch, stream)
                if self.flip:
                    mirrored = self.model.embed(batch.flip(3), stream)
                    embedding = F.normalize(embedding + mirrored, dim=1)
                parts.append(embedding.cpu())
        return np.asarray(torch.cat(parts).numpy())
