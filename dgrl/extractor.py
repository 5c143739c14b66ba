"""A trained network on images of arrays or tensors: resize, normalise, embed, on the CPU or the GPUs."""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dgrl.evaluation.norms import require_norms
from dgrl.image_bank import resize
from dgrl.images import Image, check_images
from dgrl.model.inputs import normalise
from dgrl.model.network import DGRL, Stream
from dgrl.parallel.device import default_device, gpus
from dgrl.parallel.processes import imap
from dgrl.progress import track
from dgrl.weights.published import load_model


class Extractor:
    """A trained network, ready to embed.

    >>> extractor = Extractor.load(Path("data/viper/dgrl/model.safetensors"))  # doctest: +SKIP
    >>> queries = extractor.embed(low_resolution_images, "sr")  # doctest: +SKIP
    >>> gallery = extractor.embed(high_resolution_images, "hr")  # doctest: +SKIP
    >>> similarity = queries @ gallery.T  # doctest: +SKIP
    """

    def __init__(
        self,
        model: DGRL,
        height: int,
        width: int,
        *,
        flip: bool = False,
        batch: int = 64,
        workers: int | None = None,
    ) -> None:
        """Take a network to this machine's GPU, if it has one.

        Args:
            model: it is put into evaluation mode.
            height: of its images, in pixels.
            width: likewise.
            flip: average the embeddings of an image and of its mirror image.
            batch: images at once.
            workers: processes with a thread or a GPU each, on whose number the bytes do not depend; default
                this process with torch's threads.
        """
        self.device = default_device()
        self.model = model.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.height, self.width, self.flip, self.batch, self.workers = height, width, flip, batch, workers

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle the network on the CPU; the process that reads it has a device of its own."""
        build = partial(Extractor, flip=self.flip, batch=self.batch, workers=self.workers)
        return build, (copy.deepcopy(self.model).cpu(), self.height, self.width)

    @classmethod
    def load(
        cls, path: Path, *, flip: bool = False, batch: int = 64, workers: int | None = None
    ) -> "Extractor":
        """Load the ``model.safetensors`` of a run; see ``Extractor``.

        Raises:
            InputError: if the file is missing or not one of DGRL's.
        """
        model, params = load_model(path)
        return cls(model, params.height, params.width, flip=flip, batch=batch, workers=workers)

    def embed(self, images: Sequence[Image], stream: Stream) -> npt.NDArray[np.float32]:
        """Embed images of any size.

        Args:
            images: uint8 RGB, [H, W, 3] each.
            stream: ``hr`` for high-resolution images, ``sr`` for restored (super-resolved) ones.

        Returns:
            [N, D] float32, rows of unit length: their dot products are cosine similarities.

        Raises:
            InputError: naming the index of the first that is no such array: floats, gray, RGBA, channels
                first, empty; or of the first whose embedding is 0 or not finite.
        """
        check_images(images)
        if not images:
            blank = torch.zeros(1, 3, self.height, self.width, dtype=torch.uint8)
            return self.embed_tensor(blank, stream)[:0]  # [0, D]
        resized = np.stack([resize(image, self.height, self.width) for image in images])
        return self.embed_tensor(torch.from_numpy(resized).permute(0, 3, 1, 2), stream)

    def embed_tensor(self, images: Tensor, stream: Stream) -> npt.NDArray[np.float32]:
        """Embed [N, 3, height, width] uint8 images that have the network's size already; see ``embed``."""
        starts = range(0, len(images), self.batch)
        batches = (images[start : start + self.batch].numpy(force=True) for start in starts)
        parts = track(self._parts(batches, stream, len(starts)), f"embed {stream}", len(starts), "batch")
        embeddings = np.concatenate(list(parts))
        remedy = "train the network again, with a lower train.learning_rate"
        require_norms(np.linalg.norm(embeddings, axis=1), 0, remedy)
        return embeddings

    def _parts(
        self, batches: Iterator[npt.NDArray[np.uint8]], stream: Stream, count: int
    ) -> Iterator[npt.NDArray[np.float32]]:
        embed = partial(self._embed_batch, stream=stream)
        if self.workers is None:
            return map(embed, batches)
        workers = min(self.workers, count)
        return imap(embed, batches, workers=workers, description=f"embed {stream}", gpus=gpus())

    def _embed_batch(self, images: npt.NDArray[np.uint8], stream: Stream) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            batch = normalise(torch.from_numpy(images).to(self.device))
            embeddings = self.model.embed(batch, stream)
            if self.flip:
                embeddings = F.normalize(embeddings + self.model.embed(batch.flip(3), stream), dim=1)
            return np.asarray(embeddings.cpu().numpy())
