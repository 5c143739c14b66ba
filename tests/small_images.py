"""Small images, tables of them, an RCAN for them, and PSNR by brute force."""

import math
from pathlib import Path

import cv2
import numpy as np

from dgrl.images import Image
from dgrl.random import named_generator
from dgrl.superres.params import RcanParams
from dgrl.tables import ImageRow, write_table

RCAN = RcanParams(
    features=16,
    groups=1,
    blocks=1,
    iterations=20,
    batch=4,
    patch=24,
    learning_rate=1e-3,
    milestones=(0.5, 0.75),
    warmup=5,
    ema_decay=0.5,
    val_fraction=0.25,
)


def smooth_image(*names: str | int, width: int = 48, height: int = 96) -> Image:
    coarse = named_generator("smooth", *names).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def image_row(image: Image, person: int, camera: str, factor: int = 1) -> ImageRow:
    image_id = f"{person:04d}_{camera}"
    return ImageRow.from_pixels(
        image,
        f"{image_id}.png",
        image_id=image_id,
        person_id=f"{person:04d}",
        camera_id=camera,
        subset="train",
        factor=factor,
    )


def write_persons(folder: Path) -> Path:
    """A table of eight persons in two cameras; sizes differ and few are multiples of 3 and 4."""
    rows = [
        image_row(smooth_image(person, camera, width=48 + person, height=97), person, camera)
        for person in range(8)
        for camera in "ab"
    ]
    write_table(folder, rows)
    return folder


def brute_psnr(image: Image, twin: Image) -> float:
    error = sum((int(a) - int(b)) ** 2 for a, b in zip(image.flat, twin.flat, strict=True)) / twin.size
    return 20 * math.log10(255) - 10 * math.log10(error)
