"""Small images and their rows of a table; PSNR by brute force."""

import math

import cv2
import numpy as np

from dgrl.images import Image
from dgrl.random import named_generator
from dgrl.tables import ImageRow


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


def brute_psnr(image: Image, twin: Image) -> float:
    error = sum((int(a) - int(b)) ** 2 for a, b in zip(image.flat, twin.flat, strict=True)) / twin.size
    return 20 * math.log10(255) - 10 * math.log10(error)
