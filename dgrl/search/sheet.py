"""A contact sheet of what was found, as one HTML file: nothing to install, nothing to fetch."""

from collections.abc import Sequence
from dataclasses import dataclass

from dgrl.images import decode, encode_png
from dgrl.report.page import data_uri, environment
from dgrl.report.thumbnail import shrink

THUMBNAIL_SIDE = 160  # pixels, the longer side of an embedded image


@dataclass(frozen=True, slots=True)
class Match:
    """An image that was found; ``data`` is None where its file is gone."""

    name: str
    caption: str  # person and camera
    similarity: float
    answer: str  # same person and the probability, or unknown; empty without a calibration
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A query, and what the index has for it, nearest first."""

    name: str
    note: str
    data: bytes
    matches: Sequence[Match]


def render_sheet(title: str, note: str, answers: Sequence[Answer]) -> str:
    """The page.

    Raises:
        InputError: if an image is not readable.
    """
    templates = environment("dgrl.search")
    templates.filters["thumbnail"] = thumbnail
    return templates.get_template("sheet.html.j2").render(title=title, note=note, answers=answers)


def thumbnail(data: bytes, name: str) -> str:
    """A ``data:`` link to a small version of an encoded image."""
    image = shrink(decode(data, name), THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return data_uri("image/png", encode_png(image))
