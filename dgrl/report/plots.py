"""Plots as SVG by matplotlib: the same data give the same bytes."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 4.2, 3.0  # inches of 72 units: letters keep their size on a narrow page
TEXT, GRID = "#1c2330", "#e3e7ee"
COLORS = ("#2563eb", "#c2410c", "#0f766e", "#7c3aed", "#5d6778", "#be185d", "#7a5c00", "#0369a1")
DASHES = ("-", "--", ":", "-.")
VARIABLES = {TEXT: "--text", GRID: "--line"} | {color: f"--s{i}" for i, color in enumerate(COLORS)}  # of CSS
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # letters, which the page's font draws
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": TEXT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.xmargin": 0.02,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: its label and its points. ``points`` are marked and not joined; ``steps`` are filled."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    kind: Literal["line", "points", "steps"] = "line"


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot for the page.

    Args:
        name: a word of letters, digits and hyphens; the files to download are called so.
        title: what it shows.
        alt: what there is to see, for those who do not.
        svg: the file, in colours for a light background.
        csv: its data.
    """

    name: str
    title: str
    alt: str
    svg: str
    csv: str

    def inline(self) -> str:
        """The SVG as an element of the page, in the page's colours, with ids that no other plot has."""
        svg = re.sub(r"<style.*?</style>", "", self.svg[self.svg.index("<svg") :], flags=re.DOTALL)
        svg = re.sub(r' (xmlns(:\w+)?|width|height|version)="[^"]*"', "", svg, count=5)
        svg = re.sub(r'\bid="', f'id="{self.name}-', svg)
        svg = re.sub(r'(url\(|href=")#', rf"\1#{self.name}-", svg)
        for color, variable in VARIABLES.items():
            svg = svg.replace(color, f"var({variable})")
        return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)


def plot(
    name: str,
    title: str,
    alt: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    limits: tuple[float, float] | None = None,
) -> Plot:
    """Draw ``series`` in one pair of axes.

    Args:
        name: see ``Plot``, as title and alt.
        title: see ``Plot``.
        alt: see ``Plot``.
        series: at least one.
        x_label: of the axis; the column of the CSV.
        y_label: likewise.
        limits: of the y axis.
    """
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):  # type: ignore[arg-type]
        figure = Figure((WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
        for index, each in enumerate(series):
            color = COLORS[index % len(COLORS)]
            dash = DASHES[(index + index // len(COLORS)) % len(DASHES)]  # no two alike
            if each.kind == "points":
                axes.plot(each.x, each.y, "D", color=color, markersize=5, label=each.label)
            elif each.kind == "steps":
                axes.fill_between(each.x, each.y, step="post", color=color, alpha=0.25, linewidth=0)
                axes.step(each.x, each.y, dash, where="post", color=color, label=each.label)
            else:
                alone = "o" if len(each.x) == 1 else None  # a line of one point would not be seen
                axes.plot(each.x, each.y, dash, marker=alone, color=color, label=each.label)
        if all(isinstance(x, int) for each in series for x in each.x):
            axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
        if limits:
            axes.set_ylim(*limits)
        figure.legend(loc="outside lower center", ncols=2)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=_NO_METADATA)
    parts = [pd.DataFrame({"curve": each.label, x_label: each.x, y_label: each.y}) for each in series]
    table = pd.concat(parts).to_csv(index=False, float_format="%.6g")
    return Plot(name, title, alt, file.getvalue(), table)
