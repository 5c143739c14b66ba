"""Small versions of images, for the report and the sheets."""

import cv2
import numpy as np

from dgrl.images import Image


def shrink(image: Image, width: int, height: int) -> Image:
    """``image`` [H, W, 3] in at most ``width`` x ``height`` pixels; a smaller one stays as it is."""
    scale = min(width / image.shape[1], height / image.shape[0])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
