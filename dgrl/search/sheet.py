"""A contact sheet of what was found, as one HTML file: nothing to install, nothing to fetch."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from dgrl.images import decode, encode_png
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
    environment = Environment(
        loader=PackageLoader("dgrl.search", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment.get_template("sheet.html.j2").render(title=title, note=note, answers=answers)


def data_uri(data: bytes, name: str) -> str:
    """A thumbnail of an encoded image, as the page has it."""
    image = shrink(decode(data, name), THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode("ascii")
