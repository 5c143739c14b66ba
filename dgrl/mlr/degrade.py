"""How an LR image is made of an HR one: the paper's way (IV-C), or that of public code.

The lines of the public scripts are named at ``RECIPES``; docs/benchmarks.md says what else they do.
"""

from dataclasses import replace
from typing import Literal, NamedTuple

import cv2
import numpy as np
import PIL.Image

from dgrl.errors import InputError
from dgrl.images import Image, decode, encode_jpeg
from dgrl.tables import DISTRACTOR, ImageRow

Kernel = Literal["area", "linear", "cubic", "pil_bilinear", "pil_bicubic", "pil_lanczos"]
Recipe = Literal["dgrl", "sing", "dil", "prpr", "vpfa"]

_OPENCV = {
    "area": cv2.INTER_AREA,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
}  # linear, cubic: aliased
_PILLOW = {
    "pil_bilinear": PIL.Image.Resampling.BILINEAR,
    "pil_bicubic": PIL.Image.Resampling.BICUBIC,
    "pil_lanczos": PIL.Image.Resampling.LANCZOS,
}


class Degradation(NamedTuple):
    """How LR images are made and stored."""

    kernel: Kernel = "area"
    jpeg_quality: int = 0  # 0: losslessly, as PNG


RECIPES: dict[Recipe, Degradation] = {
    "dgrl": Degradation(),  # IV-C: "resampling using pixel area relation"
    # jiaojiening/SRCNN_JSTL, tools/viper_ln_random.py 23-25, reads .bmp files from folders "viper_b_x2" and
    # "viper_b_x3" that no script of it makes; another of its folders is called "normal_bicubic". Inferred:
    # MATLAB's imresize, which smooths as Pillow's resize does.
    "sing": Degradation("pil_bicubic"),
    # Yukun-Huang/Degradation-Invariant-ReID-pytorch, core/data/tranform/degrade_function.py 18-22; in memory.
    "dil": Degradation("pil_bilinear"),
    # amateurbo/PRPR, Feature Distance Fusion/predata/camera_mlr_market.py 57-66; cv2.imwrite's default is 95.
    "prpr": Degradation("linear", 95),
    # ashmentlzw/VPFA, dataset_preprocessing/down_sample_viper.py 7-9 and 32-34; Pillow's default is 75.
    "vpfa": Degradation("pil_bicubic", 75),
}


class Entry(NamedTuple):
    """One row that an image contributes to a table."""

    table: Literal["train_hr", "train_lr", "query", "gallery"]
    image_id: str  # in the table; those of an HR image and its LR twin are equal
    factor: int  # of down-sampling; 1 = as it is


def degradation(recipe: Recipe, kernel: Kernel | None = None, jpeg_quality: int | None = None) -> Degradation:
    """That of a recipe, but for what is given beside it."""
    own = RECIPES[recipe]
    return Degradation(kernel or own.kernel, own.jpeg_quality if jpeg_quality is None else jpeg_quality)


def downsample(image: Image, factor: int, kernel: Kernel = "area") -> Image:
    """Shrink: [H, W, 3] -> [H // factor, W // factor, 3].

    Raises:
        InputError: if nothing would be left.
    """
    height, width = image.shape[0] // factor, image.shape[1] // factor
    if min(height, width) < 1:
        raise InputError(
            f"an image of {image.shape[1]}x{image.shape[0]} pixels is too small for factor {factor}"
        )
    if kernel in _PILLOW:
        return np.array(PIL.Image.fromarray(image).resize((width, height), _PILLOW[kernel]))
    return cv2.resize(image, (width, height), interpolation=_OPENCV[kernel]).astype(np.uint8, copy=False)


def degrade(image: Image, factor: int, how: Degradation) -> tuple[Image, bytes | None]:
    """The LR image as it is read back, and its file where that is not simply lossless.

    Raises:
        InputError: if nothing would be left.
    """
    low = downsample(image, factor, how.kernel)
    if not how.jpeg_quality:
        return low, None
    data = encode_jpeg(low, how.jpeg_quality)
    return decode(data, "an LR image"), data


def make_row(row: ImageRow, entry: Entry, how: Degradation = RECIPES["dgrl"]) -> ImageRow:
    """The row that an image contributes to a table: untouched for factor 1, else of low resolution.

    Raises:
        InputError: if the image is unreadable or too small.
    """
    subset = row.subset if row.subset == DISTRACTOR else entry.table.removesuffix("_hr").removesuffix("_lr")
    if entry.factor == 1:
        return replace(row, image_id=entry.image_id, subset=subset)
    try:
        pixels, data = degrade(row.pixels(), entry.factor, how)
    except InputError as error:
        raise InputError(f"image {row.image_id}: {error}") from None
    return ImageRow.from_pixels(
        pixels,
        f"{entry.image_id}_x{entry.factor}.{'jpg' if data else 'png'}",
        image_id=entry.image_id,
        person_id=row.person_id,
        camera_id=row.camera_id,
        subset=subset,
        factor=entry.factor,
        data=data,
    )
