"""One HTML file that explains an evaluation: nothing to install, nothing to fetch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from dgrl.images import Image, encode_jpeg, encode_png
from dgrl.report.page import data_uri, environment
from dgrl.report.plots import Plot
from dgrl.report.restoration import Panel
from dgrl.report.thumbnail import shrink

SIDE = 128  # pixels, the longer side of an image of a ranked list; style.css.j2 shows it so
PANEL_SIDE = 160  # likewise of LR, bicubic, SR and HR
_JPEG_QUALITY = 85


@dataclass(frozen=True, slots=True)
class Match:
    """A gallery image that was found.

    Args:
        rank: from 1.
        image: uint8 RGB [H, W, 3].
        caption: person and camera.
        correct: whether it shows the query's person.
        similarity: cosine, to the query.
        activation: the image under its activation map.
    """

    rank: int
    image: Image
    caption: str
    correct: bool
    similarity: float
    activation: Image | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A query and what the gallery answered.

    Args:
        captured: the LR image as it was captured or made.
        query: as the network was fed it, super-resolved.
        caption: person, camera and factor.
        matches: nearest first; the last may be the nearest right one, if none of those before is right.
        best_rank: of the nearest image of the query's person, from 1.
        activation: ``query`` under its activation map.
    """

    captured: Image
    query: Image
    caption: str
    matches: Sequence[Match]
    best_rank: int
    activation: Image | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All that the page shows; a part that is empty is left out.

    Args:
        title: what was evaluated.
        summary: sentences below the title.
        headline: metrics in percent by row and column; NaN where there is none.
        notes: sentences below the headline.
        tables: metrics in percent and integer counts by heading, rows by their index.
        plots: curves and histograms.
        examples: ranked lists by the heading of their group.
        restorations: captions and their panels.
        metrics: every metric by name.
        options: every option by name.
        origin: where this comes from: commit, versions, digests.
    """

    title: str
    summary: str
    headline: pd.DataFrame
    notes: Sequence[str] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    plots: Sequence[Plot] = ()
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    restorations: Sequence[tuple[str, Sequence[Panel]]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    origin: Mapping[str, object] = field(default_factory=dict)


def render(report: Report) -> str:
    """The report as a self-contained HTML page; the same report gives the same bytes."""
    templates = environment("dgrl.report")
    templates.filters |= {
        "label": label,
        "number": _number,
        "download": _download,
        "photo": lambda image: photo(shrink(image, SIDE, SIDE)),
        "exact": lambda image: data_uri("image/png", encode_png(shrink(image, PANEL_SIDE, PANEL_SIDE))),
    }
    return templates.get_template("report.html.j2").render(report=report, side=SIDE, panel_side=PANEL_SIDE)


def label(name: str) -> str:
    """``Rank-5`` for ``rank5``, ``multi-shot`` for ``multi_shot``."""
    if name.startswith("rank") and name[4:].isdecimal():
        return f"Rank-{name[4:]}"
    return name.replace("_", "-")


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "n/a" if math.isnan(value) else f"{value:.1f}"


def photo(image: Image) -> str:
    """A ``data:`` link to an image [H, W, 3], as JPEG: it looks the same, and PNG is five times as large."""
    return data_uri("image/jpeg", encode_jpeg(image, _JPEG_QUALITY))


def _download(text: str, kind: str) -> str:
    return data_uri(kind, text.encode())
