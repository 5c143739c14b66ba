"""One HTML file with the metrics, the CMC curve and a few queries: nothing to install, nothing to fetch."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined

from dgrl.errors import InputError
from dgrl.images import encode_png
from dgrl.report.thumbnail import thumbnail

THUMBNAIL_SIDE = 128  # pixels, the longer side of an embedded image


@dataclass(frozen=True, slots=True)
class Match:
    """A gallery image that was found.

    Args:
        data: the encoded image (PNG, JPEG, BMP, ...).
        caption: person and camera.
        correct: whether it shows the query's person.
    """

    data: bytes
    caption: str
    correct: bool


@dataclass(frozen=True, slots=True)
class Example:
    """A query image, encoded, and what the gallery answered, nearest first."""

    query: bytes
    caption: str
    matches: Sequence[Match]


def choose_examples(right: npt.NDArray[np.bool_], count: int = 8) -> list[int]:
    """Queries to show, evenly spaced: half of them found at once and half not, as far as there are any.

    Args:
        right: [Q] bool, whether the nearest gallery image shows the query's person.
        count: how many to choose.

    Returns:
        At most ``count`` row numbers, ascending.
    """
    hits, misses = np.flatnonzero(right), np.flatnonzero(~right)
    wrong = min(len(misses), max(count // 2, count - len(hits)))
    chosen = [_spaced(hits, min(len(hits), count - wrong)), _spaced(misses, wrong)]
    return [int(row) for row in np.sort(np.concatenate(chosen))]


def render(
    title: str,
    metrics: Mapping[str, float],
    cmc: Sequence[float],
    options: Mapping[str, object],
    examples: Sequence[Example],
) -> str:
    """The report as a self-contained HTML page.

    Args:
        title: what was evaluated.
        metrics: metrics by name; floats are percent, integers are counts. A dotted name such as
            ``factor 2.rank1`` puts the metric into the row ``factor 2`` of the table.
        cmc: the single-shot CMC curve in percent, from Rank-1.
        options: what the metrics depend on, by name.
        examples: queries to show with their nearest gallery images.

    Raises:
        InputError: if an image is not readable, or the curve is empty or not finite.
    """
    if not len(cmc) or not np.isfinite(cmc).all():
        raise InputError("the CMC curve is empty or not finite; give percent from Rank-1 on")
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        row, _, column = name.rpartition(".")
        rows.setdefault(row, {})[column] = value
    environment = Environment(
        loader=PackageLoader("dgrl.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"label": _label, "number": _number, "data_uri": _data_uri}
    return environment.get_template("report.html.j2").render(
        title=title,
        metrics=metrics,
        rows=rows,
        columns=list(dict.fromkeys(column for row in rows.values() for column in row)),
        cmc=cmc,
        options=options,
        examples=examples,
    )


def _spaced(rows: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    return rows[np.arange(count) * len(rows) // max(count, 1)]


def _label(name: str) -> str:
    """``Rank-5`` for ``rank5``, ``multi-shot`` for ``multi_shot``."""
    if name.startswith("rank") and name[4:].isdecimal():
        return f"Rank-{name[4:]}"
    return name.replace("_", "-")


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"


def _data_uri(data: bytes, name: str) -> str:
    """A thumbnail as a data URI; the browser enlarges small ones."""
    image = thumbnail(data, name, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode("ascii")
