"""Pages to share: where a person's face may be, their images keep colours and no more."""

import base64
import re

import cv2

from dgrl.images import Image, decode, encode_jpeg, encode_png
from dgrl.report.page import data_uri

# Without a detector, which would miss some. In person images the head is in the upper half; a cell is as high
# as half a head, and no cell has more than its mean colour.
PART = 2  # of the height: the upper half
ROWS, COLUMNS = 8, 4  # cells
JPEG_QUALITY = 85

_EMBEDDED = re.compile(r"data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)")
_HEADING_ENDS = "</h1>"
_NOTE = "\n<p>The upper half of each image is blurred, whether or not a face is seen there.</p>"


def blur_faces(page: str) -> str:
    """A self-contained HTML page with the upper half of each embedded image blurred, and a line that says so.

    Args:
        page: HTML whose images are ``data:`` links of PNG or JPEG; those of SVG stay as they are.

    Raises:
        InputError: if an image is not readable.
    """
    return _EMBEDDED.sub(_blurred, page).replace(_HEADING_ENDS, _HEADING_ENDS + _NOTE, 1)


def blur_upper_half(image: Image) -> Image:
    """An image [H, W, 3] whose upper half is made of the mean colours of ``ROWS`` x ``COLUMNS`` cells."""
    height = -(-image.shape[0] // PART)
    upper = image[:height]
    cells = cv2.resize(upper, (min(COLUMNS, image.shape[1]), min(ROWS, height)), interpolation=cv2.INTER_AREA)
    blurred = image.copy()
    blurred[:height] = cv2.resize(cells, (image.shape[1], height), interpolation=cv2.INTER_LINEAR)
    return blurred


def _blurred(link: re.Match[str]) -> str:
    kind, text = link.groups()
    image = blur_upper_half(decode(base64.b64decode(text), "an image of the page"))
    data = encode_png(image) if kind == "png" else encode_jpeg(image, JPEG_QUALITY)
    return data_uri(f"image/{kind}", data)
