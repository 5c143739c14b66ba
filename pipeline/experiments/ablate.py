"""The rows of the ablation tables, queued as DVC experiments."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dgrl.errors import InputError
from dgrl.progress import track
from pipeline.experiments.paper import ABLATIONS, AblationName
from pipeline.params import as_scalar, load_params


def ablate(
    which: AblationName,
    seeds: int = 1,
    trials: int = 1,
    dataset: str | None = None,
    name: str | None = None,
) -> list[str]:
    """Queue every row of a table, once for each train.seed below ``seeds`` and mlr.trial below ``trials``.

    All else is as in params.yaml, which must be committed; ``dvc queue start`` runs the queue.

    Args:
        which: the table: losses, components or sr.
        seeds: how many seeds.
        trials: how many trials.
        dataset: one of params.yaml's datasets; all of them by default.
        name: what the experiments' names start with; ``which`` by default.

    Returns:
        The experiments' names: ``<name>-<row>-<number>``.

    Raises:
        InputError: if this is no DVC project, it has no commit, params.yaml is wrong, has no such dataset
            or differs from the commit's, or an experiment of such a name exists.
    """
    datasets = load_params().datasets
    if dataset is not None and dataset not in datasets:
        raise InputError(
            f"{dataset} is not one of params.yaml's datasets ({', '.join(datasets)}); add it there"
        )
    rows = {f"{name or which}-{row.name}": row.params for row in ABLATIONS[which].rows}
    names = [f"{row}-{number}" for row in rows for number in range(1, seeds * trials + 1)]
    shown = experiments()
    _check_committed(shown)
    existing = experiment_names(shown)
    if taken := [each for each in names if each in existing]:
        raise InputError(
            f"there is an experiment {taken[0]!r} already; give these another name (--name), or remove it: "
            f"dvc exp remove {taken[0]}, or dvc queue remove {taken[0]} if it is queued or failed"
        )
    for row, params in track(rows.items(), f"queue {which}", len(rows), "row"):
        settings: dict[str, Any] = dict(params)
        settings |= {"train.seed": f"range(0,{seeds})", "mlr.trial": f"range(0,{trials})"}
        if dataset is not None:  # a stage's name as target would keep stale metrics of the other datasets
            settings["datasets"] = f"[{dataset}]"
        _dvc("exp", "run", "--queue", "--name", row, *_set_params(settings))  # DVC adds the numbers
    return names


def experiments(*, all_commits: bool = False) -> list[dict[str, Any]]:
    """What ``dvc exp show --json`` says: the commits, each with its experiments.

    Raises:
        InputError: if this is no DVC project, or it has no commit.
    """
    if not Path(".dvc").is_dir():
        raise InputError(
            "this folder is no DVC project; run dgrl in the project's folder (dvc init makes one)"
        )
    shown: list[dict[str, Any]] = json.loads(
        _dvc("exp", "show", "--json", *(["--all-commits"] if all_commits else []))
    )
    if not shown:
        raise InputError(
            "this project has no git commit, from which experiments start; git add and commit it"
        )
    return shown


def experiment_names(shown: list[dict[str, Any]]) -> set[str]:
    """The names in what ``experiments`` returns, those of queued and failed ones included."""
    return {experiment["name"] for commit in shown for experiment in commit["experiments"] or []}


def state_of(experiment: Mapping[str, Any]) -> str:
    """``success``, or what DVC's queue says of an experiment; one that was not queued has finished."""
    return (experiment["executor"] or {}).get("state") or "success"


def flat_params(data: Mapping[str, Any]) -> dict[str, Any]:
    """The params of params.yaml by dotted name in what ``dvc exp show`` has of a commit or experiment."""
    return dict(flat(data.get("params", {}).get("params.yaml", {}).get("data", {})))


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The params of nested sections by dotted name."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", as_scalar(value)


def _check_committed(shown: list[dict[str, Any]]) -> None:
    """Every row would carry an edit that is in no commit, such as one that ``dvc exp run -S`` left."""
    here, committed = (flat_params(commit["data"] or {}) for commit in shown[:2])
    changed = sorted(key for key in here | committed if here.get(key) != committed.get(key))
    if changed:
        names = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
        raise InputError(
            f"params.yaml differs from the last commit in {names}, which every row would carry; "
            "commit it, or undo it: git checkout params.yaml"
        )


def _set_params(settings: dict[str, Any]) -> list[str]:
    """Options ``-S key=value``, with values as YAML has them."""
    values = {
        key: str(value).lower() if isinstance(value, bool) else value for key, value in settings.items()
    }
    return [word for key, value in values.items() for word in ("-S", f"{key}={value}")]


def _dvc(*arguments: str) -> str:
    """Run DVC; returns what it printed.

    Raises:
        InputError: if it fails, with its own words.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = [
            line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")
        ]
        command = " ".join(arguments[:2])
        raise InputError(f"dvc {command} failed: {said[0] if said else f'exit status {done.returncode}'}")
    return done.stdout
