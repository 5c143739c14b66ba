"""Write the experiments of a commit into docs/results/NAME.json, and their table into docs/results.md.

    python docs/runs.py NAME [--dataset viper]

A row is the mean and the sample standard deviation of the runs that differ in mlr.trial and train.seed alone.
Its label is the params that differ from params.yaml as committed; "-" where none does.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from marks import write_part

from dgrl.files import atomic_file
from pipeline.experiments.ablate import experiments, flat_params, state_of
from pipeline.experiments.table import as_text, dataset_metrics

PAGE = Path(__file__).with_name("results.md")
FOLDER = Path(__file__).parent / "results"
SEEDS = ("mlr.trial", "train.seed")
COLUMNS = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}

Run = dict[str, Any]  # params that differ, its seeds, and metrics of its dataset


def main(name: str, dataset: str = "viper") -> None:
    """Read the experiments, and write."""
    found = read(experiments(), dataset)
    with atomic_file(FOLDER / f"{name}.json") as file:
        file.write_text(json.dumps(found, indent=1) + "\n")
    write_part(PAGE, name, table(found))


def read(shown: Sequence[Mapping[str, Any]], dataset: str) -> list[Run]:
    """The finished runs of the newest commit that ``dvc exp show`` has, in the order of their seeds."""
    _, commit, *_ = shown  # the workspace comes first
    committed = flat_params(commit["data"])
    runs = []
    for experiment in commit["experiments"] or []:
        if state_of(experiment) != "success":
            continue
        data = experiment["revs"][0]["data"]
        params = flat_params(data)
        differing = {
            key: value
            for key, value in params.items()
            if value != committed.get(key) and not key.startswith(SEEDS)
        }
        seeds = {seed: params[seed] for seed in SEEDS}
        runs += [
            {"params": differing, **seeds, "metrics": _flat_metrics(metrics)}
            for name, metrics in dataset_metrics(data["metrics"])
            if name == dataset
        ]
    return sorted(runs, key=lambda run: (_label(run), *(run[seed] for seed in SEEDS)))


def table(runs: Sequence[Run]) -> str:
    """Mean and deviation of each row's runs, as they are and after a whitening."""
    rows = defaultdict(list)
    for run in runs:
        rows[_label(run)].append(run["metrics"])
    lines = []
    for label, found in rows.items():
        for prefix, words in (("", ""), ("adapted.", ", whitened")):
            metrics = pd.DataFrame(found)
            if f"{prefix}rank1" in metrics:
                cells = {title: _cell(metrics[prefix + key]) for key, title in COLUMNS.items()}
                lines.append({"params": label + words, "runs": len(found), **cells})
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True) + "\n"


def _flat_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    adapted = metrics.get("adapted", {})
    found = {key: metrics[key] for key in COLUMNS}
    return found | {f"adapted.{key}": adapted[key] for key in COLUMNS if key in adapted}


def _label(run: Run) -> str:
    return ", ".join(f"`{key}={as_text(value)}`" for key, value in run["params"].items()) or "-"


def _cell(values: "pd.Series[float]") -> str:
    deviation = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{deviation}"


if __name__ == "__main__":
    typer.run(main)
