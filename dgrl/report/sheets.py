"""Ranked lists as small PNG images, one per query, to compare between runs."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dgrl.images import Image, encode_png
from dgrl.report.render import Example
from dgrl.report.thumbnail import shrink

CELL_WIDTH, CELL_HEIGHT, FRAME = 64, 96, 4  # pixels, of an image and of the frame around it
MATCHES = 5  # of a query, at most

GREY, GREEN, RED = (128, 128, 128), (21, 128, 61), (220, 38, 38)  # query, right person, wrong person


def write_sheets(folder: Path, examples: Mapping[str, Example]) -> None:
    """Write ``<image_id>.png`` for each query: the query in grey, then its matches in green or red frames.

    The same examples give the same bytes. A character that is unsafe in a file name becomes ``_``.

    Args:
        folder: where to write; made if it does not exist.
        examples: the queries by image_id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for image_id, example in examples.items():
        (folder / _file_name(image_id)).write_bytes(encode_png(sheet(example)))


def sheet(example: Example) -> Image:
    """The query and its first matches side by side, uint8 RGB [104, 72 * images, 3]."""
    matches = example.matches[:MATCHES]
    cells = [_cell(match.image, GREEN if match.correct else RED) for match in matches]
    return np.concatenate([_cell(example.query, GREY), *cells], axis=1)


def _cell(image: Image, color: tuple[int, int, int]) -> Image:
    """An image in the middle of a white cell with a frame."""
    image = shrink(image, CELL_WIDTH, CELL_HEIGHT)
    height, width, _ = image.shape
    cell = np.empty((CELL_HEIGHT + 2 * FRAME, CELL_WIDTH + 2 * FRAME, 3), np.uint8)
    cell[:] = color
    cell[FRAME:-FRAME, FRAME:-FRAME] = 255
    top, left = (cell.shape[0] - height) // 2, (cell.shape[1] - width) // 2
    cell[top : top + height, left : left + width] = image
    return cell


def _file_name(image_id: str) -> str:
    """An image_id that had to be changed gets a digest, so that no two share a file."""
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", image_id)[:100]
    if safe != image_id:
        safe += "-" + hashlib.sha256(image_id.encode()).hexdigest()[:8]
    return f"{safe}.png"
