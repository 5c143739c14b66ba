"""The paper's tables of the project's own experiments: mean and deviation beside the paper's figures."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast, get_args

import pandas as pd
import yaml

from dgrl.errors import InputError
from pipeline.ablate import experiments
from pipeline.paper import DATASET_TITLES, TABLES, Figures, Row, Table, TableFormat, TableName
from pipeline.params import DatasetName
from pipeline.paths import Paths

_RANKS = ("rank1", "rank5", "rank10")
_SEEDS = ("train.seed", "mlr.trial")  # what the mean is over
_KEYS = ("experiment", "commit", "dataset", *_RANKS)
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
        paper: the paper's figures.
        ours: whether experiments make this row; else it is the paper's alone.
    """

    dataset: str
    row: str
    settings: str
    n: int
    mean: Figures | None
    std: Figures | None
    paper: Figures | None
    ours: bool


def table(
    which: TableName,
    form: TableFormat = "markdown",
    dataset: DatasetName | None = None,
    where: Sequence[str] = (),
    *,
    all_commits: bool = False,
) -> tuple[str, list[str]]:
    """A table of the experiments that ``dvc exp show`` knows.

    Neither the workspace nor a commit counts as a run: its params may have been edited since its figures.

    Args:
        which: the table.
        form: markdown, csv or latex.
        dataset: the only dataset to show; by default all that have runs.
        where: choices ``key=value`` of params; only runs that fit all of them count.
        all_commits: also experiments that started from other commits than the present one.

    Returns:
        The table, and notes on what was left out or needs care.

    Raises:
        InputError: if this is no DVC project, or a choice is wrong.
    """
    runs, notes = read_runs(experiments(all_commits=all_commits))
    lines, more = summarise(runs, TABLES[which], dataset, parse_choices(where))
    return render(lines, TABLES[which], form), notes + more


# From experiments to runs


def read_runs(shown: Iterable[Mapping[str, Any]]) -> tuple[pd.DataFrame, list[str]]:
    """The finished experiments of ``dvc exp show --json``, and notes on the others.

    Returns:
        One line per experiment and dataset: ``experiment``, ``commit`` (from which it started), ``dataset``,
        ``rank1``, ``rank5``, ``rank10``, and a column for every param, lists joined by spaces.
    """
    records: list[dict[str, Any]] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    for commit in shown:
        for experiment in commit["experiments"] or []:
            found, states = _read(experiment)
            records += [{"commit": commit["rev"][:7], **record} for record in found]
            for state in states:
                left_out[state].append(experiment["name"])
    columns = dict.fromkeys([*_KEYS, *(key for record in records for key in record)])
    runs = pd.DataFrame(records, columns=pd.Index(columns), dtype=object)
    return runs.where(runs.notna(), None), [_left_out(*each) for each in sorted(left_out.items())]


def _read(experiment: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """An experiment's records, one per dataset, and why there are none."""
    newest = experiment["revs"][0]
    state = (experiment["executor"] or {"state": "success"})["state"]
    if state != "success":
        return [], [state]
    if newest["error"] or "data" not in newest["data"]["params"].get("params.yaml", {}):
        return [], ["failed"]
    params = dict(_flat(newest["data"]["params"]["params.yaml"]["data"]))
    records, states = [], []
    for dataset, figures in _figures(newest["data"]["metrics"]):
        if stale := _stale(figures.get("options", {}), params):
            states.append(f"out of date on {dataset} (its figures are of another {stale})")
            continue
        ranks = {rank: figures[rank] for rank in _RANKS}
        records.append({"experiment": experiment["name"], "dataset": dataset, **ranks, **params})
    return records, states if records or states else ["unevaluated"]


def _figures(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What the stage evaluate wrote for each dataset."""
    for dataset in get_args(DatasetName):
        file = metrics.get(str(Paths(dataset).eval / "metrics.json"), {})
        if dataset in file.get("data", {}):
            yield dataset, file["data"][dataset]


def _stale(options: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    """The param whose value the figures contradict: those of a dataset that was not run again, say."""
    return next((key for key, value in options.items() if key in params and params[key] != value), "")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _joined(value)


def _joined(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _left_out(state: str, names: list[str]) -> str:
    more = ", ..." if len(names) > 5 else ""
    return f"left out, {state}: {len(names)} ({', '.join(sorted(names)[:5])}{more})"


# From runs to lines


def parse_choices(words: Iterable[str]) -> dict[str, Any]:
    """Choices ``key=value``, with values as YAML reads them.

    Raises:
        InputError: if a word is no such choice.
    """
    choices = {}
    for word in words:
        key, equals, value = word.partition("=")
        try:
            choices[key] = _joined(yaml.safe_load(value))
        except yaml.YAMLError:
            equals = ""
        if not key or not equals:
            raise InputError(f"--where {word!r} is no choice; write key=value, such as train.epochs=40")
    return choices


def summarise(
    runs: pd.DataFrame,
    table: Table,
    dataset: DatasetName | None = None,
    where: Mapping[str, Any] | None = None,
) -> tuple[list[Line], list[str]]:
    """The lines of a table.

    Runs of one row are of one line if they agree in every param but train.seed and mlr.trial. Where they
    do not, each setting is a block of lines of its own that names the params which differ.

    Args:
        runs: as ``read_runs`` gives them.
        table: the table.
        dataset: the only dataset to show.
        where: params that a run must have.

    Returns:
        The lines, dataset by dataset, and notes on what needs care.

    Raises:
        InputError: if a choice names no param, or no run fits it.
    """
    if dataset is not None:
        runs = runs[runs.dataset == dataset]
    runs = _choose(runs, where or {})
    runs, notes = _usual(_with_rows(runs, table), table, where or {})
    lines: list[Line] = []
    for name in _datasets(runs, table, dataset):
        own, more = _without_repeats(runs[runs.dataset == name], name)
        lines += _lines(own, table, name)
        notes += more
    return lines, notes + _care(runs, table)


def _choose(runs: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    for key, value in where.items():
        if runs.empty:
            break
        if key not in runs.columns.drop(list(_KEYS)):
            raise InputError(f"--where {key}={_text(value)}: there is no param {key!r} in params.yaml")
        fits = _equal(runs[key], value)
        if not fits.any():
            found = ", ".join(sorted({_text(other) for other in runs[key]}))
            raise InputError(f"--where {key}={_text(value)}: no run has it (there are: {found})")
        runs = runs[fits]
    return runs


def _equal(column: pd.Series, value: Any) -> pd.Series:
    return column.map(lambda other: other == value).astype(bool)


def _with_rows(runs: pd.DataFrame, table: Table) -> pd.DataFrame:
    """The runs that are of some row, with its label in the column ``row``."""
    parts = [runs[_all_equal(runs, row.params)].assign(row=row.label) for row in table.rows if row.params]
    return pd.concat(parts, ignore_index=True)


def _all_equal(runs: pd.DataFrame, params: Mapping[str, Any]) -> pd.Series:
    fits = pd.Series(True, index=runs.index)
    for key, value in params.items():
        fits &= _equal(runs[key], value) if key in runs else False
    return fits


def _usual(runs: pd.DataFrame, table: Table, where: Mapping[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """Runs as the paper's, unless asked for others."""
    usual = {key: value for key, value in table.where.items() if key not in where}
    fits = _all_equal(runs, usual)
    if fits.all():
        return runs, []
    asked = " ".join(f"{key}={_text(value)}" for key, value in usual.items())
    return runs[fits], [f"left out, not {asked}: {(~fits).sum()} runs (--where chooses others)"]


def _datasets(runs: pd.DataFrame, table: Table, dataset: DatasetName | None) -> list[str]:
    if dataset is not None:
        return [dataset]
    found = sorted(set(runs.dataset))
    if table.wide:
        return [*DATASET_TITLES, *(name for name in found if name not in DATASET_TITLES)]
    return found or ["market1501"]


def _settings(runs: pd.DataFrame, dataset: str) -> list[str]:
    """The params that figures on a dataset may depend on, without the seeds."""
    others = set(get_args(DatasetName)) - {dataset} | {"datasets"}
    no_params = {*_KEYS, *_SEEDS, "row"}
    return [key for key in runs.columns if key not in no_params and not others & set(key.split("."))]


def _without_repeats(runs: pd.DataFrame, dataset: str) -> tuple[pd.DataFrame, list[str]]:
    """A run of the same params and seeds is no second sample."""
    keys = ["row", *_settings(runs, dataset), *(seed for seed in _SEEDS if seed in runs)]
    repeats = runs.duplicated(keys)
    if not repeats.any():
        return runs, []
    agree = repeats.equals(runs.duplicated([*keys, *_RANKS]))
    figures = "" if agree else ", though their figures differ (the first of each in dvc exp show counts)"
    names = ", ".join(runs.experiment[repeats][:5])
    return runs[~repeats], [f"counted once on {dataset}, same params and seeds as another: {names}{figures}"]


def _lines(runs: pd.DataFrame, table: Table, dataset: str) -> list[Line]:
    """The paper's own rows, then a block of the others for every setting."""
    varying = [key for key in _constants(runs, table, dataset) if _telling(runs[key], key)]
    texts = pd.Series([_setting(run, varying) for _, run in runs.iterrows()], index=runs.index, dtype=object)
    lines = [_line(table, row, runs[:0], dataset, "") for row in table.rows if not row.params]
    for text in sorted(set(texts)) or [""]:
        block = runs[texts == text]
        lines += [
            _line(table, row, block[block.row == row.label], dataset, text)
            for row in table.rows
            if row.params
        ]
    return lines


def _constants(runs: pd.DataFrame, table: Table, dataset: str) -> list[str]:
    """The params that ought to be equal in all of a table."""
    switches = {key for row in table.rows for key in row.params}
    return [key for key in _settings(runs, dataset) if key not in switches]


def _telling(values: pd.Series, key: str) -> bool:
    """Whether lines must name a param: it differs, or the figures are not of the paper's test persons."""
    return len(set(values)) > 1 or (key == "mlr.evaluate_on" and set(values) == {"val"})


def _setting(run: pd.Series, keys: Sequence[str]) -> str:
    return ", ".join(f"{key}={_text(run[key])}" for key in keys)


def _line(table: Table, row: Row, runs: pd.DataFrame, dataset: str, settings: str) -> Line:
    figures = runs[list(_RANKS)].astype(float)
    mean = cast(Figures, tuple(figures.mean())) if len(runs) else None
    std = cast(Figures, tuple(figures.std(ddof=1))) if len(runs) > 1 else None
    paper = row.paper.get(table.paper_dataset or dataset)
    return Line(dataset, row.label, settings, len(runs), mean, std, paper, bool(row.params))


def _care(runs: pd.DataFrame, table: Table) -> list[str]:
    """What the lines do not show: other code, or other settings on another dataset."""
    notes = []
    if len(commits := sorted(set(runs.commit))) > 1:
        notes.append(f"the runs are of {len(commits)} commits, whose code may differ: {', '.join(commits)}")
    sets = runs.groupby("dataset")[_constants(runs, table, "")].agg(frozenset)
    if differing := [str(key) for key in sets if sets[key].nunique() > 1]:
        notes.append(f"the datasets' runs differ in {', '.join(differing)}")
    return notes


def _text(value: Any) -> str:
    """As YAML writes it, but 5.0 as 5."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


# From lines to text


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
        *_RANKS,
        *(f"{rank}_std" for rank in _RANKS),
        *(f"paper_{rank}" for rank in _RANKS),
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
    """Block under block, ours and the paper's figures side by side."""
    ranks = [_rank_title(rank) for rank in _RANKS]
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
    """The datasets side by side, the paper's figures and ours one below the other."""
    datasets = list(dict.fromkeys(line.dataset for line in lines))
    found = {(line.row, line.settings, line.dataset): line for line in lines}
    ran = {line.row for line in lines if line.n}
    rows = dict.fromkeys((line.row, line.settings) for line in lines if line.n or line.row not in ran)
    header = [("", table.heading), ("", "Settings")]
    header += [(_title(name), column) for name in datasets for column in (*map(_rank_title, _RANKS), "n")]
    cells = [
        [*row, *(cell for name in datasets for cell in _wide_cells(found.get((*row, name))))] for row in rows
    ]
    return _without_empty((header, cells))


def _wide_cells(line: Line | None) -> list[str]:
    if line is None or not line.ours:
        return [*_cells(line.paper if line else None), ""]
    return [*_cells(line.mean, line.std), str(line.n) if line.n else ""]


def _cells(mean: Figures | None, std: Figures | None = None) -> list[str]:
    if mean is None:
        return [_DASH] * len(_RANKS)
    if std is None:
        return [f"{value:.1f}" for value in mean]
    return [f"{value:.1f} ± {deviation:.1f}" for value, deviation in zip(mean, std, strict=True)]


def _title(dataset: str) -> str:
    return DATASET_TITLES.get(dataset, dataset)


def _rank_title(rank: str) -> str:
    return f"Rank-{rank.removeprefix('rank')}"


def _without_empty(grid: Grid) -> Grid:
    """Leave out the columns that say nothing: settings that do not differ, figures that the paper has not."""
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
