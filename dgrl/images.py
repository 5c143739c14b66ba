"""Decoding, encoding and identifying images. Everywhere an image is uint8 RGB, [H, W, 3]."""

import hashlib

import cv2
import numpy as np
import numpy.typing as npt

from dgrl.errors import InputError

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # a damaged image is an InputError

Image = npt.NDArray[np.uint8]  # [H, W, 3], RGB


def decode(data: bytes, name: str) -> Image:
    """Decode the bytes of an image file (PNG, JPEG, BMP, ...) to RGB.

    Args:
        data: the file's bytes.
        name: what to call the image in an error message.

    Raises:
        InputError: if the bytes are not a whole image.
    """
    encoded = np.frombuffer(data, np.uint8)
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    if image is None:
        raise InputError(f"{name} is not a readable image; restore the file from its source")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def encode_png(image: Image) -> bytes:
    """Encode losslessly as PNG."""
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"cannot encode an image of shape {image.shape}")
    return data.tobytes()


def pixel_sha256(image: Image) -> str:
    """SHA-256 of the shape and the RGB values: equal pixels, equal digest, whatever the file format."""
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()
