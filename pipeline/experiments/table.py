"""The paper's tables of the project's own experiments: mean and deviation beside the paper's metrics."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd

from dgrl.errors import InputError
from pipeline.experiments.ablate import experiments, flat, flat_params, state_of
from pipeline.experiments.paper import (
    DATASET_TITLES,
    SHOTS,
    TABLES,
    Metrics,
    Row,
    Shot,
    Table,
    TableFormat,
    TableName,
)
from pipeline.experiments.render import RANKS, Line, render
from pipeline.params import as_scalar
from pipeline.params_file import read_value
from pipeline.preset import PRESETS, preset_values

_SEEDS = ("train.seed", "mlr.trial")  # what the mean is over
_COLUMNS: Mapping[Shot, list[str]] = {  # of runs
    "single": list(RANKS),
    "multi": [f"multi_shot.{rank}" for rank in RANKS],
}
_KEYS = ("experiment", "commit", "dataset", *_COLUMNS["single"], *_COLUMNS["multi"])


def table(
    which: TableName,
    form: TableFormat = "markdown",
    dataset: str | None = None,
    where: Sequence[str] = (),
    *,
    all_commits: bool = False,
) -> tuple[str, list[str]]:
    """A table of the experiments that ``dvc exp show`` knows.

    Neither the workspace nor a commit counts as a run: its params may have been edited since its metrics.

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
    shown = experiments(all_commits=all_commits)
    runs, notes = read_runs(shown)
    committed = flat_params(shown[1]["data"] or {})
    lines, more = summarise(runs, TABLES[which], dataset, parse_choices(where), committed)
    return render(lines, TABLES[which], form), notes + more + preset_note(committed)


def preset_note(committed: Mapping[str, Any]) -> list[str]:
    """What the commit's params have that is in no preset: no column tells what all runs have in common."""
    presets = {path.stem: dict(flat(preset_values(path.stem))) for path in PRESETS.glob("*.yaml")}
    no_setting = (*_SEEDS, "datasets", "runtime", "source", "mlr.lr_camera")
    differing = {
        name: [
            f"{key}={as_text(value)} (preset: {as_text(values.get(key))})"
            for key, value in committed.items()
            if not key.startswith(no_setting) and values.get(key) != value
        ]
        for name, values in presets.items()
    }
    name = min(differing, key=lambda each: len(differing[each]), default="")
    if not name or not differing[name]:
        return []
    return [f"params.yaml as committed differs from the preset {name} in {', '.join(differing[name])}"]


# From experiments to runs


def read_runs(shown: Iterable[Mapping[str, Any]]) -> tuple[pd.DataFrame, list[str]]:
    """The finished experiments of ``dvc exp show --json``, and notes on the others.

    Returns:
        One line per experiment and dataset: ``experiment``, ``commit`` (from which it started), ``dataset``,
        ``rank1``, ``rank5``, ``rank10``, the same as ``multi_shot.rank1`` etc., and a column for every param,
        lists joined by spaces.
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
    state = state_of(experiment)
    if state != "success":
        return [], [state]
    if newest["error"] or "data" not in newest["data"]["params"].get("params.yaml", {}):
        return [], ["failed"]
    params = flat_params(newest["data"])
    records, states = [], []
    for dataset, metrics in dataset_metrics(newest["data"]["metrics"]):
        if stale := _stale(metrics.get("options", {}), params):
            states.append(f"out of date on {dataset} (its metrics are of another {stale})")
            continue
        multi_shot = metrics.get("multi_shot", {})
        ranks = {rank: metrics.get(rank) for rank in RANKS}
        ranks |= {f"multi_shot.{rank}": multi_shot.get(rank) for rank in RANKS}
        records.append({"experiment": experiment["name"], "dataset": dataset, **ranks, **params})
    return records, states if records or states else ["unevaluated"]


def dataset_metrics(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What the stage evaluate wrote for each dataset, less what has been edited into something else."""
    for name, file in metrics.items():
        dataset = Path(name).parts[-3] if name.endswith("/eval/metrics.json") else ""
        content = file.get("data")
        found = content.get(dataset) if isinstance(content, dict) else None
        if isinstance(found, dict) and isinstance(found.get("rank1"), int | float):
            yield dataset, found


def _stale(options: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    """The param whose value the metrics contradict: those of a dataset that was not run again, say."""
    return next((key for key, value in options.items() if params.get(key, "auto") not in (value, "auto")), "")


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
            choices[key] = as_scalar(read_value(value))
        except InputError:
            equals = ""
        if not key or not equals:
            raise InputError(f"--where {word!r} is no choice; write key=value, such as train.epochs=40")
    return choices


def summarise(
    runs: pd.DataFrame,
    table: Table,
    dataset: str | None = None,
    where: Mapping[str, Any] | None = None,
    committed: Mapping[str, Any] | None = None,
) -> tuple[list[Line], list[str]]:
    """The lines of a table.

    Runs of one row are of one line if they agree in every param but train.seed and mlr.trial. Where they
    do not, each setting is a block of lines of its own that names the params which differ, from other
    blocks or from the commit.

    Args:
        runs: as ``read_runs`` gives them.
        table: the table.
        dataset: the only dataset to show.
        where: params that a run must have.
        committed: params.yaml of the present commit, by dotted name.

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
        usual, left_out = _as_committed(runs[runs.dataset == name], table, name, where or {}, committed or {})
        own, repeated = _without_repeats(usual, name)
        for shot in SHOTS.get(name, ("single",)):
            lines += _lines(own, table, name, shot, committed or {})
        notes += left_out + repeated + _unlike(own, table, name)
    return lines, notes + _care(runs, table)


def _choose(runs: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    for key, value in where.items():
        if runs.empty:
            break
        if key not in runs.columns.drop(list(_KEYS)):
            raise InputError(f"--where {key}={as_text(value)}: there is no param {key!r} in params.yaml")
        fits = _have(runs, {key: value})
        if not fits.any():
            found = ", ".join(sorted({as_text(other) for other in runs[key]}))
            raise InputError(f"--where {key}={as_text(value)}: no run has it (there are: {found})")
        runs = runs[fits]
    return runs


def _with_rows(runs: pd.DataFrame, table: Table) -> pd.DataFrame:
    """The runs that are of some row, with its label in the column ``row``."""
    parts = [runs[_have(runs, row.params)].assign(row=row.label) for row in table.rows if row.params]
    return pd.concat(parts, ignore_index=True)


def _have(runs: pd.DataFrame, params: Mapping[str, Any]) -> pd.Series:
    """[N] bool, whether a run has all these params."""
    fits = [all(run.get(key, ...) == value for key, value in params.items()) for _, run in runs.iterrows()]
    return pd.Series(fits, index=runs.index, dtype=bool)


def _usual(runs: pd.DataFrame, table: Table, where: Mapping[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """Runs as the paper's, unless asked for others."""
    usual = {key: value for key, value in table.where.items() if key not in where}
    fits = _have(runs, usual)
    if fits.all():
        return runs, []
    asked = " ".join(f"{key}={as_text(value)}" for key, value in usual.items())
    return runs[fits], [f"left out, not {asked}: {(~fits).sum()} runs (--where chooses others)"]


def _as_committed(
    runs: pd.DataFrame, table: Table, dataset: str, where: Mapping[str, Any], committed: Mapping[str, Any]
) -> tuple[pd.DataFrame, list[str]]:
    """Rows of an ablation differ in its switches alone: a run that differs elsewhere is none."""
    if table.wide:
        return runs, []
    keys = [key for key in _constants(runs, table, dataset) if key in committed and key not in where]
    fits = _have(runs, {key: committed[key] for key in keys})
    notes = []
    for _, run in runs[~fits].iterrows():
        params = " ".join(f"{key}={as_text(run[key])}" for key in keys if run[key] != committed[key])
        notes.append(
            f"left out on {dataset}, not as params.yaml: {run.experiment} ({params}; --where counts it)"
        )
    return runs[fits], notes


def _datasets(runs: pd.DataFrame, table: Table, dataset: str | None) -> list[str]:
    if dataset is not None:
        return [dataset]
    found = sorted(set(runs.dataset))
    if table.wide:
        return [*DATASET_TITLES, *(name for name in found if name not in DATASET_TITLES)]
    return found or ["market1501"]


def _settings(runs: pd.DataFrame, dataset: str) -> list[str]:
    """The params that metrics on a dataset may depend on, without the seeds."""
    sets = {key.split(".")[1] for key in runs.columns if key.startswith("source.")}
    others = sets - {dataset} | {"datasets", "runtime", "limits"}
    no_params = {*_KEYS, *_SEEDS, "row"}
    return [key for key in runs.columns if key not in no_params and not others & set(key.split("."))]


def _without_repeats(runs: pd.DataFrame, dataset: str) -> tuple[pd.DataFrame, list[str]]:
    """A run of the same params and seeds is no second sample."""
    keys = ["row", *_settings(runs, dataset), *(seed for seed in _SEEDS if seed in runs)]
    repeats = runs.duplicated(keys)
    if not repeats.any():
        return runs, []
    agree = repeats.equals(runs.duplicated([*keys, *RANKS]))
    metrics = "" if agree else ", though their metrics differ (the first of each in dvc exp show counts)"
    names = ", ".join(runs.experiment[repeats][:5])
    return runs[~repeats], [f"used once on {dataset}, same params and seeds as another: {names}{metrics}"]


def _unlike(runs: pd.DataFrame, table: Table, dataset: str) -> list[str]:
    """Rows whose means are over other seeds or trials cannot be compared."""
    seeds = [seed for seed in _SEEDS if seed in runs]
    drawn = {str(row): set(map(tuple, part[seeds].to_numpy())) for row, part in runs.groupby("row")}
    if table.wide or len(set(map(frozenset, drawn.values()))) < 2:
        return []
    counts = ", ".join(f"{row.label}: {len(drawn[row.label])}" for row in table.rows if row.label in drawn)
    return [
        f"the rows on {dataset} have different seeds or trials, so many of them: {counts}; compare rows of "
        "the same: --where mlr.trial=0, or --where train.seed=0"
    ]


def _lines(
    runs: pd.DataFrame, table: Table, dataset: str, shot: Shot, committed: Mapping[str, Any]
) -> list[Line]:
    """The paper's own rows, then a block of the others for every setting."""
    varying = [key for key in _constants(runs, table, dataset) if _telling(runs[key], key, committed)]
    named = [", ".join(f"{key}={as_text(run[key])}" for key in varying) for _, run in runs.iterrows()]
    texts = pd.Series(named, index=runs.index, dtype=object)
    lines = [_line(row, runs[:0], dataset, shot, "") for row in table.rows if not row.params]
    for text in sorted(set(texts)) or [""]:
        block = runs[texts == text]
        lines += [
            _line(row, block[block.row == row.label], dataset, shot, text) for row in table.rows if row.params
        ]
    return lines


def _constants(runs: pd.DataFrame, table: Table, dataset: str) -> list[str]:
    """The params that ought to be equal in all of a table."""
    switches = {key for row in table.rows for key in row.params}
    return [key for key in _settings(runs, dataset) if key not in switches]


def _telling(values: pd.Series, key: str, committed: Mapping[str, Any]) -> bool:
    """Whether lines must name a param: it differs, or the metrics are not of the paper's test persons."""
    found = set(values)
    usual = {committed[key]} if found and key in committed else set()
    return len(found | usual) > 1 or (key == "mlr.evaluate_on" and not found <= {"test"})


def _line(row: Row, runs: pd.DataFrame, dataset: str, shot: Shot, settings: str) -> Line:
    metrics = runs[_COLUMNS[shot]].astype(float).dropna()
    n = len(metrics)
    mean = cast(Metrics, tuple(metrics.mean())) if n else None
    std = cast(Metrics, tuple(metrics.std(ddof=1))) if n > 1 else None
    customary = shot == SHOTS.get(dataset, ("single",))[0]
    paper = row.paper.get(dataset) if customary else None
    return Line(dataset, shot, row.label, settings, n, mean, std, paper, bool(row.params))


def _care(runs: pd.DataFrame, table: Table) -> list[str]:
    """What the lines do not show: other code, or other settings on another dataset."""
    notes = []
    if len(commits := sorted(set(runs.commit))) > 1:
        notes.append(f"the runs are of {len(commits)} commits, whose code may differ: {', '.join(commits)}")
    sets = runs.groupby("dataset")[_constants(runs, table, "")].agg(frozenset)
    if differing := [str(key) for key in sets if sets[key].nunique() > 1]:
        notes.append(f"the datasets' runs differ in {', '.join(differing)}")
    return notes


def as_text(value: Any) -> str:
    """As YAML writes it, but 5.0 as 5."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
