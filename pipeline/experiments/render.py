"""The lines of the paper's tables as Markdown, CSV or LaTeX."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from pipeline.experiments.paper import DATASET_TITLES, Metrics, Table, TableFormat

RANKS = ("rank1", "rank5", "rank10")
_DASH = "-"

Header = tuple[str, str]  # of a column: its group, its name
Grid = tuple[list[Header], list[list[str]]]


@dataclass(frozen=True)
class Line:
    """A row of a table on one dataset.

    Args:
        dataset: the dataset.
        row: the row's label.
        settings: params that differ from other lines' on this dataset; empty if none do.
        n: number of runs.
        mean: over the runs, percent; None without a run.
        std: sample standard deviation; None with less than two runs.
        paper: the paper's metrics.
        ours: whether experiments make this row; else it is the paper's alone.
    """

    dataset: str
    row: str
    settings: str
    n: int
    mean: Metrics | None
    std: Metrics | None
    paper: Metrics | None
    ours: bool


def render(lines: Sequence[Line], table: Table, form: TableFormat) -> str:
    """The table as text, ending in a line break."""
    if form == "csv":
        return _csv(lines)
    grid = _wide(lines, table) if table.wide else _long(lines, table)
    caption = f"{table.caption}. Rank-k in percent, mean and standard deviation over n runs"
    if table.paper_dataset:
        caption += f"; the paper's are on {DATASET_TITLES[table.paper_dataset]}"
    return (_markdown if form == "markdown" else _latex)(grid, f"{caption}.")


def _csv(lines: Sequence[Line]) -> str:
    """A record a line, in numbers; what is not known is empty."""
    columns = [
        "dataset",
        "row",
        "settings",
        "n",
        *RANKS,
        *(f"{rank}_std" for rank in RANKS),
        *(f"paper_{rank}" for rank in RANKS),
    ]
    empty = (None, None, None)
    records = [
        (
            line.dataset,
            line.row,
            line.settings,
            str(line.n) if line.ours else "",
            *(line.mean or empty),
            *(line.std or empty),
            *(line.paper or empty),
        )
        for line in lines
    ]
    return pd.DataFrame(records, columns=columns).to_csv(index=False, float_format="%.2f")


def _long(lines: Sequence[Line], table: Table) -> Grid:
    """Block under block, ours and the paper's metrics side by side."""
    ranks = [_rank_title(rank) for rank in RANKS]
    header = [("", "Dataset"), ("", table.heading), ("", "Settings"), ("", "n")]
    header += [("", rank) for rank in ranks] + [("Paper", rank) for rank in ranks]
    cells = [
        [
            _title(line.dataset),
            line.row,
            line.settings,
            str(line.n),
            *_cells(line.mean, line.std),
            *_cells(line.paper),
        ]
        for line in lines
    ]
    return _without_empty((header, cells))


def _wide(lines: Sequence[Line], table: Table) -> Grid:
    """The datasets side by side, the paper's metrics and ours one below the other."""
    datasets = list(dict.fromkeys(line.dataset for line in lines))
    found = {(line.row, line.settings, line.dataset): line for line in lines}
    ran = {line.row for line in lines if line.n}
    rows = dict.fromkeys((line.row, line.settings) for line in lines if line.n or line.row not in ran)
    header = [("", table.heading), ("", "Settings")]
    header += [(_title(name), column) for name in datasets for column in (*map(_rank_title, RANKS), "n")]
    cells = [
        [*row, *(cell for name in datasets for cell in _wide_cells(found.get((*row, name))))] for row in rows
    ]
    return _without_empty((header, cells))


def _wide_cells(line: Line | None) -> list[str]:
    if line is None or not line.ours:
        return [*_cells(line.paper if line else None), ""]
    return [*_cells(line.mean, line.std), str(line.n) if line.n else ""]


def _cells(mean: Metrics | None, std: Metrics | None = None) -> list[str]:
    if mean is None:
        return [_DASH] * len(RANKS)
    if std is None:
        return [f"{value:.1f}" for value in mean]
    return [f"{value:.1f} ± {deviation:.1f}" for value, deviation in zip(mean, std, strict=True)]


def _title(dataset: str) -> str:
    return DATASET_TITLES.get(dataset, dataset)


def _rank_title(rank: str) -> str:
    return f"Rank-{rank.removeprefix('rank')}"


def _without_empty(grid: Grid) -> Grid:
    """Leave out the columns that say nothing: settings that do not differ, metrics that the paper has not."""
    header, rows = grid
    kept = [i for i, (group, _) in enumerate(header) if _says(group, [row[i] for row in rows])]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _says(group: str, cells: Sequence[str]) -> bool:
    return any(cells) and not (group == "Paper" and set(cells) == {_DASH})


def _markdown(grid: Grid, caption: str) -> str:
    header, rows = grid
    names = [" ".join(filter(None, column)) for column in header]
    table = [[cell.replace("|", r"\|") for cell in row] for row in [names, *rows]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    table.insert(1, ["-" * width for width in widths])
    padded = (" | ".join(map(str.ljust, row, widths)) for row in table)
    return caption + "\n\n" + "".join(f"| {row} |\n" for row in padded)


def _latex(grid: Grid, caption: str) -> str:
    """A table environment for the package booktabs."""
    header, rows = grid
    lines = [*_latex_groups(header), _latex_row([name for _, name in header]), r"\midrule"]
    lines += [_latex_row(row) for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex_text(caption)}}}",
            rf"\begin{{tabular}}{{{'l' * len(header)}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex_groups(header: Sequence[Header]) -> list[str]:
    """The line of group titles over their columns, and the rules below them; nothing without groups."""
    spans = [(group, len(list(columns))) for group, columns in groupby(group for group, _ in header)]
    cells, rules, start = [], [], 1
    for group, width in spans:
        if group:
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{_latex_text(group)}}}")
            rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        else:
            cells += [""] * width
        start += width
    return [" & ".join(cells) + r" \\", " ".join(rules)] if rules else []


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex_text, cells)) + r" \\"


def _latex_text(text: str) -> str:
    escaped = re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))
    return escaped.replace("±", r"$\pm$")
