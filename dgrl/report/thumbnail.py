"""Small versions of images, for the report and the sheets."""

import cv2
import numpy as np

from dgrl.images import Image, decode


def thumbnail(data: bytes, name: str, width: int, height: int) -> Image:
    """Decode an image and shrink it to fit into ``width`` x ``height`` pixels; a smaller one stays as it is.

    Args:
        data: the encoded image (PNG, JPEG, BMP, ...).
        name: what to call it in an error message.
        width: of the space for it, pixels.
        height: of the space for it, pixels.

    Raises:
        InputError: if the image is not readable.
    """
    image = decode(data, name)
    scale = min(width / image.shape[1], height / image.shape[0])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
