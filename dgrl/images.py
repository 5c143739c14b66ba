"""Decoding, encoding and identifying images. Everywhere an image is uint8 RGB, [H, W, 3]."""

import hashlib
import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import simplejpeg

from dgrl.errors import InputError
from dgrl.limits import check_size, limits

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # a damaged image is an InputError

warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # likewise
PIL.Image.MAX_IMAGE_PIXELS = None  # ours is stricter, and names the file

Image = npt.NDArray[np.uint8]  # [H, W, 3], RGB
_FORMATS = ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM"]
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"IEND"}
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # JPEG's markers of what libjpeg decodes
_PROGRESSIVE = {0xC2, 0xCA}
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")  # after the bytes of a scan


def read_image(path: Path) -> Image:
    """Decode an image file; see ``decode``.

    Raises:
        InputError: if it cannot be read, or has more bytes or pixels than the limits.
    """
    return decode(read_image_file(path), str(path))


def read_image_file(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        InputError: if it cannot be read, or has more bytes than the limit.
    """
    try:
        if not path.is_file() and path.exists():  # a pipe, which may never end
            raise InputError(f"{path} is no file; give an image file or a folder")
        check_size(str(path), path.stat().st_size)
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path} cannot be read ({reason}); correct the path, or give yourself the right to"
        ) from None


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """Width and height in pixels, from an image's header alone.

    Raises:
        InputError: if the bytes are no image of a kind that ``decode`` knows.
    """
    with _decoding(name):
        return _size(_essential(data), 0)


def decode(data: bytes, name: str, pixels: int | None = None) -> Image:
    """Decode the bytes of an image file (PNG, JPEG, BMP, ...) to RGB.

    Args:
        data: the file's bytes.
        name: what to call the image in an error message.
        pixels: the most that it may have; by default the limit ``image_pixels``.

    Raises:
        InputError: if the bytes are not a whole image, or it has more pixels.
    """
    pixels = limits().image_pixels if pixels is None else pixels
    with _decoding(name):
        data = _essential(data)
        width, height = _size(data, pixels)
    if width * height > pixels:
        raise InputError(
            f"{name} has {width}x{height} pixels, over the limit of {pixels}; make it smaller or raise "
            "limits.image_pixels"
        )
    with _decoding(name):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError("a side or a size that OpenCV has no room for, whatever our limit is")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn what a decoder raises, which may be anything, into an InputError that names the image."""
    try:
        yield
    except MemoryError:
        raise
    except Exception:
        raise InputError(f"{name} is not a readable image; restore the file from its source") from None


def _essential(data: bytes) -> bytes:
    """A PNG without the chunks that change no pixel, of whose faults libpng prints lines; others as they are.

    Raises:
        ValueError: if a chunk that is kept differs from its checksum.
        struct.error: if it is cut.
    """
    if not data.startswith(_PNG):
        return data
    kept, place, kind = [_PNG], len(_PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if kind in _PNG_CHUNKS:
            if zlib.crc32(data[place + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
                raise ValueError("a chunk differs from its checksum")
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def _size(data: bytes, pixels: int) -> tuple[int, int]:
    """Width and height; an error where a file of at most so many pixels is cut, which OpenCV decodes in part.

    Of a JPEG all scans must be there: one that is cut between two of them decodes without a complaint, only
    coarser. One that its encoder left incomplete looks the same, and is refused too.
    """
    if data.startswith(_JPEG):  # Pillow and OpenCV ignore a premature end, of which libjpeg warns
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if width * height <= pixels:
            space = "CMYK" if space in ("CMYK", "YCCK") else "GRAY"
            eighth = {"min_height": 1, "min_width": 1, "min_factor": 8}  # which is fast
            simplejpeg.decode_jpeg(data, colorspace=space, **eighth)
            _check_scans(data)
        return width, height
    with PIL.Image.open(io.BytesIO(data), formats=_FORMATS) as file:
        if file.width * file.height <= pixels:
            file.load()
        return file.size


def _check_scans(jpeg: bytes) -> None:
    """ValueError where a coefficient of a component has not been sent to its last bit."""
    missing: dict[int, list[int]] = {}  # of each component: bits of each of the 64 coefficients; 8: all
    place, progressive = 2, False
    while (marker := jpeg[place + 1]) != 0xD9:  # the end of the image
        if marker == 0xFF:  # a byte that fills
            place += 1
            continue
        body = jpeg[place + 4 : place + 2 + int.from_bytes(jpeg[place + 2 : place + 4])]
        place += 4 + len(body)
        if marker in _FRAMES:
            progressive = marker in _PROGRESSIVE
            missing = {component: [8] * 64 for component in body[6::3]}
        elif marker == 0xDA:  # a scan
            first, last, bits = body[-3], body[-2], body[-1] & 15
            for component in body[1:-3:2]:
                wanted = range(first, last + 1) if progressive else range(64)
                for coefficient in wanted:
                    missing[component][coefficient] = bits if progressive else 0
            place = _NEXT_MARKER.search(jpeg, place).start()  # type: ignore[union-attr]
    if any(map(any, missing.values())):
        raise ValueError("a scan is missing")


def check_images(images: Sequence[Image]) -> None:
    """Refuse what is no uint8 RGB image [H, W, 3].

    Raises:
        InputError: naming the index of the first: floats, gray, RGBA, channels first, empty.
    """
    for index, image in enumerate(images):
        shape: tuple[int, ...] = getattr(image, "shape", ())
        kind = getattr(image, "dtype", type(image).__name__)
        if kind != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise InputError(
                f"image {index} is {kind} of shape {tuple(shape)}; give uint8 RGB of shape [H, W, 3]"
            )


def encode_png(image: Image) -> bytes:
    """Encode losslessly as PNG."""
    return _encode(image, ".png")


def encode_jpeg(image: Image, quality: int) -> bytes:
    """Encode as JPEG of a quality of 1 to 100, with halved colour: OpenCV's and Pillow's defaults."""
    return _encode(image, ".jpg", cv2.IMWRITE_JPEG_QUALITY, quality)


def _encode(image: Image, suffix: str, *options: int) -> bytes:
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f"cannot encode an image of shape {image.shape}")
    return data.tobytes()


def pixel_sha256(image: Image) -> str:
    """SHA-256 of the shape and the RGB values: equal pixels, equal digest, whatever the file format."""
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()
