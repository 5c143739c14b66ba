"""The lines of the paper's tables as Markdown, CSV or LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.experiments.paper import DATASET_TITLES, SHOTS, Metrics, Shot, Table, TableFormat

RANKS = ("rank1", "rank5", "rank10")
_TITLES = tuple(f"Rank-{rank.removeprefix('rank')}" for rank in RANKS)

Cells = dict[tuple[str, str], str]  # of a row of text, by the column's group and name


@dataclass(frozen=True)
class Line:
    """A row of a table on one dataset.

    Args:
        dataset: the dataset.
        shot: single or multi.
        row: the row's label.
        settings: params that differ from other lines' on this dataset, or from the commit's; else empty.
        n: number of runs.
        mean: over the runs, percent; None without a run.
        std: sample standard deviation; None with less than two runs.
        paper: the paper's metrics on this dataset, where shot is the customary one.
        ours: whether experiments make this row; else it is the paper's alone.
    """

    dataset: str
    shot: Shot
    row: str
    settings: str
    n: int
    mean: Metrics | None
    std: Metrics | None
    paper: Metrics | None
    ours: bool


def render(lines: Sequence[Line], table: Table, form: TableFormat) -> str:
    """The table as text, ending in a line break; LaTeX is for the package booktabs."""
    if form == "csv":
        return pd.DataFrame(map(_numbers, lines)).to_csv(index=False, float_format="%.2f")
    rows = _wide(lines, table) if table.wide else _long(lines, table)
    columns = [column for column in rows[0] if _says(column[0], {row[column] for row in rows})]
    cells = [[row[column] for column in columns] for row in rows]
    names = [" ".join(filter(None, column)) for column in columns]
    caption = f"{table.caption}. Rank-k in percent, mean and standard deviation over n runs."
    if any(line.dataset in SHOTS for line in lines):
        caption += " Papers' metrics stand at the customary shot; IV-B says single-shot."
    if form == "markdown":
        text = pd.DataFrame(cells, columns=pd.Index(names)).map(lambda cell: cell.replace("|", r"\|"))
        return f"{caption}\n\n{text.to_markdown(index=False, disable_numparse=True)}\n"
    grouped = any(group for group, _ in columns)
    frame = pd.DataFrame(cells, columns=pd.MultiIndex.from_tuples(columns) if grouped else pd.Index(names))
    latex = frame.to_latex(index=False, escape=True, caption=caption, multicolumn_format="c")
    return latex.replace("±", r"$\pm$")


def _numbers(line: Line) -> dict[str, object]:
    """A record in numbers; what is not known is None."""
    names = ("dataset", "shot", "row", "settings")
    record: dict[str, object] = {name: getattr(line, name) for name in names}
    record["n"] = str(line.n) if line.ours else None
    for name, metrics in (("{}", line.mean), ("{}_std", line.std), ("paper_{}", line.paper)):
        record |= zip(map(name.format, RANKS), metrics or (None,) * len(RANKS), strict=True)
    return record


def _long(lines: Sequence[Line], table: Table) -> list[Cells]:
    """Block under block, ours and the paper's metrics side by side."""
    return [
        {
            ("", "Dataset"): _title(line.dataset, line.shot),
            ("", table.heading): line.row,
            ("", "Settings"): line.settings,
            ("", "n"): str(line.n),
            **_cells("", line.mean, line.std),
            **_cells("Paper", line.paper),
        }
        for line in lines
    ]


def _wide(lines: Sequence[Line], table: Table) -> list[Cells]:
    """The datasets side by side, the paper's metrics and ours one below the other."""
    ran = {line.row for line in lines if line.n}
    keys = dict.fromkeys((line.row, line.settings) for line in lines if line.n or line.row not in ran)
    rows = {key: {("", table.heading): key[0], ("", "Settings"): key[1]} for key in keys}
    found = {(line.row, line.settings, line.dataset, line.shot): line for line in lines}
    for dataset, shot in dict.fromkeys((line.dataset, line.shot) for line in lines):
        group = _title(dataset, shot)
        for key, row in rows.items():
            line = found.get((*key, dataset, shot))
            row |= _cells(group)
            row[group, "n"] = ""
            if line:
                row |= _cells(group, line.mean if line.ours else line.paper, line.std)
                row[group, "n"] = str(line.n or "")
    return list(rows.values())


def _title(dataset: str, shot: Shot) -> str:
    title = DATASET_TITLES.get(dataset, dataset)
    if dataset not in SHOTS:
        return title
    return f"{title}, {shot}-shot{' (customary)' if shot == SHOTS[dataset][0] else ''}"


def _cells(group: str, mean: Metrics | None = None, std: Metrics | None = None) -> Cells:
    cells = [f"{value:.1f}" for value in mean] if mean else ["-"] * len(RANKS)
    if std:
        cells = [f"{cell} ± {deviation:.1f}" for cell, deviation in zip(cells, std, strict=True)]
    return {(group, title): cell for title, cell in zip(_TITLES, cells, strict=True)}


def _says(group: str, cells: set[str]) -> bool:
    """Whether a column has content: settings that differ, metrics that the paper has."""
    return any(cells) and not (group == "Paper" and cells == {"-"})
