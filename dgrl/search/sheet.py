"""A contact sheet of what was found, as one HTML file: nothing to install, nothing to fetch."""

from collections.abc import Sequence

from dgrl.images import decode, encode_png
from dgrl.report.page import data_uri, environment
from dgrl.report.thumbnail import shrink
from dgrl.search.answers import Answer

THUMBNAIL_SIDE = 160  # pixels, the longer side of an embedded image


def render_sheet(title: str, note: str, answers: Sequence[Answer]) -> str:
    """The page.

    Raises:
        InputError: if an image is not readable.
    """
    templates = environment("dgrl.search", "dgrl.report")
    templates.filters["thumbnail"] = thumbnail
    sheet = templates.get_template("sheet.html.j2")
    return sheet.render(
        title=title, note=note, answers=answers, side=THUMBNAIL_SIDE, panel_side=THUMBNAIL_SIDE
    )


def thumbnail(data: bytes, name: str) -> str:
    """A ``data:`` link to a small version of an encoded image."""
    image = shrink(decode(data, name), THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return data_uri("image/png", encode_png(image))
