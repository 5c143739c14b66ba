"""The door for other programs: images of any kind in, embeddings out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dgrl.datasets.archive import files_below, readable
from dgrl.embedders.catalog import load_embedder
from dgrl.embedders.folder import read_folder
from dgrl.embedders.protocol import Embedder as Network
from dgrl.embedders.protocol import Resolution
from dgrl.errors import InputError
from dgrl.images import Image, check_images, read_image
from dgrl.superres.upscale import FACTORS, bicubic, enlarge, load_rcans, own_rcan

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
CHUNK = 256  # images in memory at once

logger = logging.getLogger(__name__)


class Embedder:
    """A network and the rule that tells low-resolution images, which are restored first.

    >>> embedder = Embedder.load("data/viper/dgrl/model.safetensors")  # doctest: +SKIP
    >>> similarity = embedder.embed("queries") @ embedder.embed("gallery").T  # doctest: +SKIP

    An image is low-resolution (LR) if it is shorter than ``lr_below`` pixels. It is enlarged by the factor of
    2, 3 and 4 that brings it nearest to them (42 by 3 to 126, where they are 128): by the RCAN of that factor
    where ``rcan`` has one, else by bicubic interpolation.

    Args:
        network: what embeds.
        lr_below: pixels; default half the height of the network's input; 0: no image is LR.
        rcan: a folder with ``x2/rcan.safetensors`` and so on, such as ``data/<dataset>/rcan``.

    Raises:
        InputError: if ``rcan`` has no network, or a damaged one.
    """

    def __init__(self, network: Network, lr_below: int | None = None, rcan: Path | None = None) -> None:
        self.network = network
        self.lr_below = network.height // 2 if lr_below is None else lr_below
        self.rcan = {} if rcan is None else load_rcans(rcan)

    @classmethod
    def load(
        cls,
        path: str | Path,
        preprocessing: str | None = None,
        *,
        lr_below: int | None = None,
        rcan: Path | None = None,
        flip: bool = False,
        whitening: Path | None = None,
    ) -> Embedder:
        """Load a network: a run's ``model.safetensors``, ``.onnx``, OpenVINO's ``.xml``, an exported folder.

        See the class, and ``catalog.load_embedder`` for ``preprocessing``, ``flip`` and ``whitening``. By
        default ``rcan`` is an exported folder's own, or the folder of that name beside the network's folder,
        where it has trained networks.
        """
        path = Path(path)
        network = load_embedder(path, preprocessing, flip=flip, whitening=whitening)
        if rcan is None:
            rcan = read_folder(path).rcan if path.is_dir() else own_rcan(path)
        return cls(network, lr_below, rcan)

    def embed(self, images: Any, resolution: Resolution | None = None) -> npt.NDArray[np.float32]:
        """Embed images.

        Args:
            images: one or a sequence of: a file, a folder (its image files, as ``image_files`` lists them),
                an array [H, W, 3] (uint8 RGB), a PIL image, a tensor [3, H, W] (uint8, or float in 0..1).
            resolution: what all of them are, where the rule is not to decide.

        Returns:
            [N, D] float32, rows of unit length: their dot products are cosine similarities.

        Raises:
            InputError: naming the image that is none.
        """
        vectors, resolutions = self.embed_images(_images(images), resolution)
        logger.info(self.describe(resolutions))
        return vectors

    def embed_boxes(self, frame: Any, xyxy: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Embed the boxes of a frame, as a detector gives them.

        Args:
            frame: one image; see ``embed``.
            xyxy: [N, 4], left, top, right, bottom in pixels; what lies outside of the frame is cut off.

        Raises:
            InputError: naming the box that is none, or lies outside of the frame.
        """
        (image,) = _images([frame])
        boxes = np.asarray(xyxy, float)
        boxes = boxes if boxes.size else boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise InputError(f"the boxes have the shape {boxes.shape}; give [N, 4]: left, top, right, bottom")
        height, width = image.shape[:2]
        crops = []
        for number, box in enumerate(boxes):
            if not np.isfinite(box).all():
                raise InputError(f"box {number} is {box.tolist()}; give left, top, right, bottom in pixels")
            left, top, right, bottom = np.clip(box.round(), 0, [width, height, width, height]).astype(int)
            if left >= right or top >= bottom:
                raise InputError(
                    f"box {number} is {box.tolist()}, which holds no pixel of the {width}x{height} frame"
                )
            crops.append(np.ascontiguousarray(image[top:bottom, left:right]))
        return self.embed_images(crops)[0]

    def embed_images(
        self, images: Iterable[Image], resolution: Resolution | None = None
    ) -> tuple[npt.NDArray[np.float32], list[Resolution]]:
        """Embeddings [N, D], and which images were taken for LR; ``CHUNK`` images in memory at once."""
        waiting = iter(images)
        parts: list[npt.NDArray[np.float32]] = []
        resolutions: list[Resolution] = []
        while chunk := list(islice(waiting, CHUNK)):
            check_images(chunk)
            found = [resolution or self.resolution(image) for image in chunk]
            vectors: dict[int, npt.NDArray[np.float32]] = {}  # by row
            for each in set(found):
                rows = [row for row, value in enumerate(found) if value == each]
                same = [self.restore(chunk[row]) if each == "lr" else chunk[row] for row in rows]
                vectors |= zip(rows, self.network.embed(same, each), strict=True)
            parts.append(np.stack([vectors[row] for row in range(len(chunk))]))
            resolutions += found
        return np.concatenate(parts) if parts else self.network.embed([], "hr"), resolutions

    def resolution(self, image: Image) -> Resolution:
        """``lr`` if the image is shorter than ``lr_below``."""
        return "lr" if image.shape[0] < self.lr_below else "hr"

    def restore(self, image: Image) -> Image:
        """Enlarge an LR image."""
        missed = {each: abs(each * image.shape[0] - self.lr_below) for each in sorted(self.rcan) or FACTORS}
        factor = min(missed, key=lambda each: missed[each])
        if self.rcan:
            return next(enlarge([image], self.rcan[factor]))
        return bicubic(image, factor)

    def describe(self, resolutions: Sequence[Resolution]) -> str:
        """What was done to the LR images, for people."""
        low, method = resolutions.count("lr"), "RCAN" if self.rcan else "bicubic interpolation"
        shorter = f"shorter than {self.lr_below} pixels, so taken for low-resolution and restored by {method}"
        return f"{low} of {len(resolutions)} images {'is' if low == 1 else 'are'} {shorter}"


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, by their suffixes, sorted; without hidden ones.

    Raises:
        InputError: if there is none, a folder cannot be read, or there is a link to a folder or to nothing.
    """
    with readable(folder):
        found = map(Path, files_below(folder))
        files = sorted(folder / name for name in found if name.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{folder} holds no image file ({', '.join(SUFFIXES)})")
    return files


def _images(sources: Any) -> Iterator[Image]:
    """The images that ``embed`` is given, one after another."""
    if not isinstance(sources, (list, tuple)):
        sources = [sources]
    for number, source in enumerate(sources):
        if isinstance(source, (str, Path)):
            path = Path(source)
            for file in image_files(path) if path.is_dir() else [path]:
                yield read_image(file)
        else:
            image = _as_array(source)
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise InputError(
                    f"image {number} is {image.dtype} of shape {image.shape}; give a path, a PIL image, "
                    "uint8 RGB [H, W, 3], or a tensor [3, H, W], uint8 or in 0..1"
                )
            yield image


def _as_array(source: Any) -> npt.NDArray[Any]:
    if hasattr(source, "detach"):  # a tensor
        source = source.detach().cpu()
        array = np.asarray((source.float() if source.is_floating_point() else source).numpy())
        if array.ndim == 3 and array.shape[0] == 3:
            array = array.transpose(1, 2, 0)
            if array.dtype != np.uint8:
                inside = array.size and np.isfinite(array).all() and 0 <= array.min() <= array.max() <= 1
                array = np.rint(255 * array).astype(np.uint8) if inside else array
        return np.ascontiguousarray(array)
    if hasattr(source, "convert"):  # of PIL; images of more than 8 bits would be cut off at 255
        source = source if source.mode.startswith(("I", "F")) else source.convert("RGB")
    return np.asarray(source)
