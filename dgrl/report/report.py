"""One HTML file with the metrics, the CMC curve and a few queries: nothing to install, nothing to fetch."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

import cv2
import numpy as np
import numpy.typing as npt

from dgrl.errors import InputError
from dgrl.images import decode, encode_png

THUMBNAIL_SIDE = 128  # pixels, the longer side of an embedded image

_PLOT_WIDTH, _PLOT_HEIGHT, _PLOT_MARGIN = 640, 300, 40  # of the CMC curve, in SVG user units


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
    sections = [
        _section("Results", _metrics_table(metrics)),
        _section("Cumulative matching characteristic, single-shot", _cmc_plot(cmc)),
    ]
    if examples:
        sections.append(_section("Queries and their nearest gallery images", _examples(examples)))
    sections.append(_section("Options", _options_table(options)))
    return _PAGE.substitute(
        title=escape(title), style=_STYLE, headline=_headline(metrics), sections="\n".join(sections)
    )


def _spaced(rows: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    return rows[np.arange(count) * len(rows) // max(count, 1)]


def _section(heading: str, body: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n{body}\n</section>"


def _headline(metrics: Mapping[str, float]) -> str:
    shown = [name for name in ("rank1", "rank5", "rank10", "mAP", "mINP") if name in metrics]
    return "\n".join(
        f'<div class="card"><b>{_number(metrics[name])}</b><span>{escape(_label(name))}</span></div>'
        for name in shown
    )


def _metrics_table(metrics: Mapping[str, float]) -> str:
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        row, _, column = name.rpartition(".")
        rows.setdefault(row, {})[column] = value
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    head = "".join(f'<th scope="col">{escape(_label(column))}</th>' for column in columns)
    body = "\n".join(
        f'<tr><th scope="row">{escape(_label(name or "all queries"))}</th>'
        + "".join(f"<td>{_number(row[column]) if column in row else ''}</td>" for column in columns)
        + "</tr>"
        for name, row in rows.items()
    )
    return (
        f'<table class="metrics">\n<thead><tr><td></td>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table>\n"
        "<p>Percent. Rank-k is single-shot, expected over all galleries of one image per person, unless "
        "the row says multi-shot. mAP and mINP rank the whole gallery.</p>"
    )


def _options_table(options: Mapping[str, object]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in options.items()
    )
    return f'<table class="options">\n<tbody>\n{rows}\n</tbody>\n</table>'


def _label(name: str) -> str:
    """``Rank-5`` for ``rank5``, ``multi-shot`` for ``multi_shot``."""
    if name.startswith("rank") and name[4:].isdecimal():
        return f"Rank-{name[4:]}"
    return name.replace("_", "-")


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"


def _cmc_plot(cmc: Sequence[float]) -> str:
    points = [(_plot_x(k, len(cmc)), _plot_y(value)) for k, value in enumerate(cmc, start=1)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "\n".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"><title>Rank-{k}: {value:.1f} %</title></circle>'
        for k, ((x, y), value) in enumerate(zip(points, cmc, strict=True), start=1)
    )
    return "\n".join(
        [
            f'<svg viewBox="0 0 {_PLOT_WIDTH} {_PLOT_HEIGHT}" role="img" aria-label="CMC curve">',
            *_plot_grid(len(cmc)),
            f'<polyline points="{line}"/>',
            dots,
            "</svg>",
        ]
    )


def _plot_grid(length: int) -> Iterable[str]:
    right = _PLOT_WIDTH - _PLOT_MARGIN
    for percent in range(0, 101, 20):
        y = _plot_y(percent)
        yield f'<line x1="{_PLOT_MARGIN}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
        yield f'<text x="{_PLOT_MARGIN - 8}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>'
    for k in [1, *range(5, length + 1, 5)]:
        x, y = _plot_x(k, length), _PLOT_HEIGHT - _PLOT_MARGIN + 18
        yield f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{k}</text>'
    yield f'<text x="{right}" y="{_PLOT_HEIGHT - 4}" text-anchor="end">rank</text>'
    yield f'<text x="{_PLOT_MARGIN - 8}" y="14" text-anchor="end">%</text>'


def _plot_x(k: int, length: int) -> float:
    return _PLOT_MARGIN + 16 + (_PLOT_WIDTH - 2 * _PLOT_MARGIN - 32) * (k - 1) / max(length - 1, 1)


def _plot_y(percent: float) -> float:
    return _PLOT_HEIGHT - _PLOT_MARGIN - (_PLOT_HEIGHT - 2 * _PLOT_MARGIN) * percent / 100


def _examples(examples: Sequence[Example]) -> str:
    return "\n".join(
        '<div class="example">'
        + _metric("query", example.query, "query", example.caption)
        + "".join(_match(rank, match) for rank, match in enumerate(example.matches, start=1))
        + "</div>"
        for example in examples
    )


def _match(rank: int, match: Match) -> str:
    kind, mark = ("right", "✓") if match.correct else ("wrong", "✗")
    return _metric(kind, match.data, f"{rank} {mark}", match.caption)


def _metric(kind: str, data: bytes, heading: str, caption: str) -> str:
    return (
        f'<metric class="{kind}"><img src="{_thumbnail(data, caption)}" alt="{escape(caption)}">'
        f"<figcaption><b>{heading}</b><br>{escape(caption)}</figcaption></metric>\n"
    )


def _thumbnail(data: bytes, name: str) -> str:
    """An image as a data URI, shrunk if larger than ``THUMBNAIL_SIDE``; the browser enlarges small ones."""
    image = decode(data, name)
    height, width = image.shape[:2]
    scale = THUMBNAIL_SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode("ascii")


_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
<div class="cards">
$headline
</div>
$sections
</main>
</body>
</html>
""")

_STYLE = """
:root { color-scheme: light dark; --text: #1c2330; --quiet: #667085; --line: #e3e7ee; --back: #f5f7fa;
  --panel: #fff; --accent: #2563eb; --right: #16a34a; --wrong: #dc2626; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ef; --quiet: #98a2b3; --line: #2c3444;
  --back: #12161f; --panel: #1a202c; --accent: #6ea0ff; --right: #3fca70; --wrong: #ff6b6b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 20px; }
h2 { font-size: 16px; margin: 0 0 14px; }
section { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: 20px;
  margin-top: 20px; overflow-x: auto; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; }
.card { flex: 1 1 120px; background: var(--panel); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 18px; }
.card b { display: block; font-size: 28px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card span { color: var(--quiet); }
section p { margin: 14px 0 0; font-size: 13px; color: var(--quiet); }
table { border-collapse: collapse; }
th { font-weight: 500; text-align: left; color: var(--quiet); }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
.metrics { width: 100%; font-variant-numeric: tabular-nums; }
.metrics td, .metrics thead th { text-align: right; padding: 6px 0 6px 14px; }
.options td { font-family: ui-monospace, monospace; font-size: 13px; overflow-wrap: anywhere; }
svg { display: block; width: 100%; max-width: 720px; margin: 0 auto; }
svg line { stroke: var(--line); }
svg text { fill: var(--quiet); font-size: 12px; }
svg polyline { fill: none; stroke: var(--accent); stroke-width: 2.5; stroke-linejoin: round; }
svg circle { fill: var(--accent); stroke: var(--panel); stroke-width: 1.5; }
.example { display: flex; gap: 12px; padding: 12px 0; border-bottom: 1px solid var(--line); }
.example:last-child { border-bottom: 0; }
metric { margin: 0; flex: 1 1 0; min-width: 84px; text-align: center; }
metric.query { border-right: 1px solid var(--line); padding-right: 12px; }
metric img { height: 136px; max-width: 100%; object-fit: contain; border: 4px solid var(--line);
  border-radius: 6px; background: var(--back); image-rendering: pixelated; }
metric.right img { border-color: var(--right); }
metric.wrong img { border-color: var(--wrong); }
metric.right b { color: var(--right); }
metric.wrong b { color: var(--wrong); }
figcaption { font-size: 12px; line-height: 1.4; color: var(--quiet); overflow-wrap: anywhere; }
"""
