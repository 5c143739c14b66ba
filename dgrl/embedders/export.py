"""What an exported file has inside, its metadata, and its embeddings beside PyTorch's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgrl.embedders.adapted import Adapted
from dgrl.embedders.catalog import load_embedder
from dgrl.embedders.external import METADATA, RESTORING
from dgrl.embedders.preprocessing import PREPROCESSING, prepare
from dgrl.embedders.protocol import Resolution
from dgrl.errors import InputError
from dgrl.evaluation.adaptation import Whitening
from dgrl.files import sha256
from dgrl.images import Image
from dgrl.model.inputs import normalise
from dgrl.model.network import DGRL, Stream
from dgrl.random import named_generator
from dgrl.superres.upscale import FACTORS, bicubic, load_rcan, rcan_file
from dgrl.weights.published import load_model

Floats = npt.NDArray[np.float32]
Precision = Literal["float32", "float16", "int8"]
LEAST: Mapping[Precision, float] = {"float32": 0.9999, "float16": 0.999, "int8": 0.9}  # cosine to PyTorch
CHECKED = 8  # images, where none are given
CALIBRATED = 128  # images that int8's ranges come from
BATCH = 32


@dataclass(frozen=True)
class ExportOptions:
    """What is inside of a file beside the network.

    Args:
        resolution: of the images: hr, or lr: restored ones, or ones that the file restores itself.
        flip: embed an image as the sum of itself and its mirror image.
        whitening: a file of ``adapted.save_whitening`` for this network.
        sr: the factor by which the file enlarges LR images; 0: it takes restored ones.
        rcan: a folder with ``x2/rcan.safetensors`` and so on to enlarge by; None: bicubic interpolation.
        precision: of the weights; int8: of the convolutions alone, and of their inputs.

    Raises:
        InputError: if they contradict each other.
    """

    resolution: Resolution = "hr"
    flip: bool = False
    whitening: Path | None = None
    sr: int = 0
    rcan: Path | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.sr not in (0, *FACTORS, 8):
            raise InputError(f"--sr {self.sr} is no factor of restoring (allowed: 2, 3, 4, 8)")
        if self.sr and self.resolution == "hr":
            raise InputError("a file that restores images takes LR ones; give --resolution lr with --sr")
        if self.rcan and not self.sr:
            raise InputError("an RCAN has a factor; give --sr 2, 3 or 4 with --rcan")

    @property
    def stream(self) -> Stream:
        """The stem that the images go through."""
        return "sr" if self.resolution == "lr" else "hr"


@dataclass(frozen=True)
class Agreement:
    """The cosine similarities of a file's embeddings and PyTorch's: the least, the mean, how many."""

    least: float
    mean: float
    images: int


class Exported(nn.Module):
    """From a file's input to its output: restoring, the network, the mirror image, the whitening.

    Shape: [N, 3, H, W], normalised, to [N, D]; with ``sr`` from [N, 3, h, w] in 0..255.
    """

    mean: Tensor  # of the whitening's side [D]
    matrix: Tensor  # [D, D]

    def __init__(
        self, model: DGRL, options: ExportOptions, restore: nn.Module | None, whitening: Whitening | None
    ) -> None:
        super().__init__()
        self.model, self.restore, self.stream, self.flip = model, restore, options.stream, options.flip
        self.whitens = whitening is not None
        if whitening is not None:
            mean = whitening.query_mean if options.resolution == "lr" else whitening.gallery_mean
            self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
            self.register_buffer("matrix", torch.tensor(whitening.matrix, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        """The file's computation."""
        x = images if self.restore is None else self.restore(images)
        embeddings = self.model.embed(x, self.stream)
        if self.flip:
            embeddings = F.normalize(embeddings + self.model.embed(x.flip(3), self.stream), dim=1)
        if self.whitens:
            embeddings = F.normalize((embeddings - self.mean) @ self.matrix, dim=1)
        return embeddings


class Restore(nn.Module):
    """LR images in 0..255, [N, 3, h, w], to the network's input [N, 3, H, W], as ``Embedder`` makes it.

    As there, both steps round to whole values. An image that is larger than the network's input after the
    first is made smaller by bicubic interpolation too, not by pixel area.
    """

    def __init__(self, factor: int, rcan: nn.Module | None, height: int, width: int) -> None:
        super().__init__()
        self.factor, self.rcan, self.size = factor, rcan, (height, width)
        if rcan is not None:  # basicsr's plain attribute, which forward assigns: torch.export wants a buffer
            mean = cast(Tensor, rcan.mean)
            del rcan.mean
            rcan.register_buffer("mean", mean)

    def forward(self, images: Tensor) -> Tensor:
        """Enlarge, resize, normalise."""
        if self.rcan is None:
            larger = F.interpolate(images, scale_factor=float(self.factor), mode="bicubic")
        else:
            larger = 255 * self.rcan(images / 255)
        resized = F.interpolate(larger.round().clamp(0, 255), self.size, mode="bicubic")
        return normalise(resized.round().clamp(0, 255))


class Export:
    """A network that is to be exported: as a module for the exporter, and as what a file is checked by."""

    def __init__(self, model: Path, options: ExportOptions) -> None:
        self.path, self.options = model, options
        network, params = load_model(model)  # first, as it takes no other kind of file
        self.reference = load_embedder(model, flip=options.flip, whitening=options.whitening)
        self.height, self.width = params.height, params.width
        whitening = self.reference.whitening if isinstance(self.reference, Adapted) else None
        self.rcan: nn.Module | None = None
        if options.rcan:
            self.rcan = load_rcan(_require(rcan_file(options.rcan, options.sr)), options.sr)
        restore = Restore(options.sr, self.rcan, self.height, self.width) if options.sr else None
        self.module = Exported(network, options, restore, whitening).eval()

    def metadata(self) -> dict[str, str]:
        """What the file says of itself."""
        options = self.options
        method = "rcan" if options.rcan else "bicubic"
        preprocessing = PREPROCESSING["rgb" if options.sr else "imagenet"]
        return {
            METADATA: preprocessing.model_dump_json(exclude_none=True),
            RESTORING: f"{method} x{options.sr}" if options.sr else "none",
            "dgrl.resolution": options.resolution,
            "dgrl.flip": str(options.flip).lower(),
            "dgrl.whitening_sha256": sha256(options.whitening) if options.whitening else "none",
            "dgrl.precision": options.precision,
            "dgrl.model_sha256": sha256(self.path),
        }

    def inputs(self, images: Sequence[Image]) -> Iterator[Floats]:
        """Batches of uint8 RGB images as the file takes them."""
        if self.options.sr:  # sizes differ
            for image in images:
                yield np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)
            return
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            yield prepare(batch, self.height, self.width, PREPROCESSING["imagenet"])

    def check(self, run: Callable[[Floats], Any], images: Sequence[Image] | None) -> Agreement:
        """Compare a file with PyTorch.

        Args:
            run: the file, from one of ``inputs`` to embeddings.
            images: as the file will get them; default random ones.

        Raises:
            InputError: if a cosine is under ``LEAST`` of the precision.
        """
        if images is None:
            scale = self.options.sr or 1
            shape = (CHECKED, self.height // scale, self.width // scale, 3)
            images = list(named_generator("export").integers(0, 256, shape, np.uint8))
        theirs = np.concatenate([np.asarray(run(batch), np.float32) for batch in self.inputs(images)])
        ours = self.reference.embed([self._restored(image) for image in images], self.options.resolution)
        cosines = (ours.astype(np.float64) * theirs).sum(axis=1) / np.linalg.norm(theirs, axis=1)
        found = Agreement(float(cosines.min()), float(cosines.mean()), len(images))
        least = LEAST[self.options.precision]
        if not found.least >= least:
            advice = "report it"
            if self.options.precision != "float32":
                advice = "take a higher precision" + (", or other images" if least < 0.99 else "")
            raise InputError(
                f"{self.path}: its exported embeddings have a cosine of only {found.least:.6f} to PyTorch's "
                f"(mean {found.mean:.6f} of {found.images} images), under {least}; {advice}"
            )
        return found

    def _restored(self, image: Image) -> Image:
        if not self.options.sr:
            return image
        if self.rcan is None:
            return bicubic(image, self.options.sr)
        with torch.inference_mode():  # in float32, as the file does; ``enlarge`` takes bfloat16 on a GPU
            larger = self.rcan(torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None])
        return np.asarray(larger[0].mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def split_images(
    options: ExportOptions, images: Sequence[Image] | None
) -> tuple[Sequence[Image], Sequence[Image] | None]:
    """The images that int8's ranges come from, and those to check on.

    Raises:
        InputError: if int8 has too few.
    """
    if options.precision != "int8":
        return [], images
    if images is None or len(images) < 2 * CALIBRATED:
        raise InputError(
            f"int8 takes its ranges from {CALIBRATED} images of training persons, and is checked on as many; "
            "give them by --images"
        )
    return images[:CALIBRATED], images[CALIBRATED:]


def _require(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path} does not exist; give another --sr, or the rcan folder of a dataset")
    return path


def require_suffix(output: Path, suffix: str) -> None:
    """Refuse a name by which the file would not be known."""
    if output.suffix != suffix:
        raise InputError(f"{output} does not end in {suffix}, by which it is known; name it so")
