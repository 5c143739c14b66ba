"""How an LR image is made of an HR one (paper IV-C)."""

from dataclasses import replace

import cv2
import numpy as np

from dgrl.errors import InputError
from dgrl.images import Image
from dgrl.mlr.protocol import Entry
from dgrl.tables import DISTRACTOR, ImageRow


def downsample(image: Image, factor: int) -> Image:
    """Shrink by pixel area relation (paper IV-C): [H, W, 3] -> [H // factor, W // factor, 3].

    Raises:
        InputError: if nothing would be left.
    """
    height, width = image.shape[0] // factor, image.shape[1] // factor
    if min(height, width) < 1:
        raise InputError(
            f"an image of {image.shape[1]}x{image.shape[0]} pixels is too small for factor {factor}"
        )
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def make_row(row: ImageRow, entry: Entry) -> ImageRow:
    """The row that an image contributes to a table: untouched for factor 1, else down-sampled.

    Raises:
        InputError: if the image is unreadable or too small.
    """
    subset = row.subset if row.subset == DISTRACTOR else entry.table.removesuffix("_hr").removesuffix("_lr")
    if entry.factor == 1:
        return replace(row, image_id=entry.image_id, subset=subset)
    try:
        pixels = downsample(row.pixels(), entry.factor)
    except InputError as error:
        raise InputError(f"image {row.image_id}: {error}") from None
    return ImageRow.from_pixels(
        pixels,
        f"{entry.image_id}_x{entry.factor}.png",
        image_id=entry.image_id,
        person_id=row.person_id,
        camera_id=row.camera_id,
        subset=subset,
        factor=entry.factor,
    )
