"""The experiments of the project at a glance."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.experiments.ablate import experiments, flat_params, state_of
from pipeline.experiments.table import as_text, dataset_metrics

WIDTH = 80  # characters, where there is no terminal


def runs(*, all_commits: bool = False, width: int | None = None) -> str:
    """Workspace, commits and experiments: dataset, Rank-1, mAP and the params that differ.

    A run's params are compared with those of the commit that it started from.

    Args:
        all_commits: also those of other commits than the present one.
        width: of the table in characters; default the terminal's, or 80 where there is none.

    Raises:
        InputError: if this is no DVC project, or it has no commit.
    """
    table = Table("run", "set", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("Rank-1", "mAP"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("params that differ", overflow="fold")
    for row in _rows(experiments(all_commits=all_commits)):
        table.add_row(*row)
    console = Console(width=width or (None if Console().is_terminal else WIDTH))
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n") + "\n"


def _rows(shown: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    workspace, *commits = shown
    yield from _row("workspace", workspace["data"] or {}, flat_params(commits[0]["data"] or {}), "")
    for commit in commits:
        base = flat_params(commit["data"] or {})
        yield from _row(commit.get("name") or commit["rev"][:7], commit["data"] or {}, base, "")
        for experiment in commit["experiments"] or []:
            state = state_of(experiment)
            data = experiment["revs"][0]["data"] or {}
            yield from _row(experiment["name"], data, base, "" if state == "success" else state)


def _row(
    name: str, data: Mapping[str, Any], base: Mapping[str, Any], state: str
) -> Iterator[tuple[str, ...]]:
    params = flat_params(data)
    keys = sorted({*params, *base}) if params else ()
    differing = [f"{key}={as_text(params.get(key))}" for key in keys if params.get(key) != base.get(key)]
    found = [] if state else list(dataset_metrics(data.get("metrics", {})))
    for dataset, metrics in found:
        headlines = [f"{metrics[key]:.1f}" if key in metrics else "-" for key in ("rank1", "mAP")]
        yield name, dataset, *headlines, ", ".join(differing)
    if not found:
        yield name, "", state or "-", "", ", ".join(differing)
