"""Run the experiments of docs/ablation.md, then write it: Table III on two datasets, and a warm start.

    python docs/results.py MARKET1501 VIPER [--preset paper] [--trials 10] [-S model.height=128] ...

MARKET1501 and VIPER are the official archives; of Market-1501 the training part is enough, since a fifth of
its persons is held out for the metrics (``mlr.evaluate_on: val``). Run it in a clone of its own: it puts the
preset in place of params.yaml and leaves DVC experiments. An interrupted call goes on where it was.
"""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from dgrl.files import atomic_file
from pipeline.experiments.ablate import experiment_names, experiments
from pipeline.experiments.paper import ABLATIONS, FULL
from pipeline.experiments.table import table

PAGE = Path(__file__).with_name("ablation.md")
WEIGHTS = Path("data/weights/market1501.safetensors")
ROWS = {row.name: row.params for row in ABLATIONS["components"].rows}


def main(
    market1501: Path,
    viper: Path,
    preset: str = "paper",
    trials: int = 10,
    rows: Annotated[str, typer.Option(help="Which rows of Table III, by comma.")] = ",".join(ROWS),
    settings: Annotated[list[str], typer.Option("-S", help="A param for all runs.")] = [],  # noqa: B006
    market_settings: Annotated[list[str], typer.Option("-M", help="A param for Market-1501.")] = [],  # noqa: B006
) -> None:
    """Train on both datasets from random weights, and on MLR-VIPeR from those of Market-1501."""
    random = {"model.weights": "none"}
    market = {"datasets": ["market1501"], "source.market1501.archive": str(market1501.resolve())}
    market |= {"source.market1501.parts": "train", "mlr.evaluate_on": "val", **random}
    people = {"datasets": ["viper"], "source.viper.archive": str(viper.resolve())}
    chosen = rows.split(",")
    if run(preset, "market1501-full", {**market, **FULL}, [*settings, *market_settings]):
        WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile("data/market1501/dgrl/model.safetensors", WEIGHTS)
    for row in chosen:
        if ROWS[row] != FULL:
            run(preset, f"market1501-{row}", {**market, **ROWS[row]}, [*settings, *market_settings])
    for trial in range(trials):
        here = {**people, "mlr.trial": trial}
        for row in chosen:
            run(preset, f"viper-{row}-{trial}", {**here, **random, **ROWS[row]}, settings)
        run(preset, f"viper-warm-{trial}", {**here, **FULL, "model.weights": str(WEIGHTS)}, settings)
    write(settings)


def run(preset: str, name: str, params: Mapping[str, Any], settings: Iterable[str]) -> bool:
    """Run an experiment, unless this commit has one of its name; returns whether it ran."""
    if name in experiment_names(experiments()):
        return False
    call("dgrl", "preset", preset, "--force")  # the experiment before left its own params
    values = [f"{key}={json.dumps(value)}" for key, value in params.items()]
    call("dvc", "exp", "run", "--name", name, *(f"--set-param={each}" for each in [*values, *settings]))
    return True


def write(settings: Sequence[str]) -> None:
    """Write the page from the experiments that there are."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    where = [each for each in settings if each.startswith("sr.method=")]
    datasets: tuple[str, ...] = ("market1501", "viper")
    tables = [table("III", dataset=dataset, where=where)[0].strip() for dataset in datasets]
    parts = [
        "# Results",
        f"{device}, Python {platform.python_version()}, torch {torch.__version__}:",
        f"    python docs/results.py MARKET1501 VIPER {shlex.join(sys.argv[3:])}",
        *tables,
    ]
    with atomic_file(PAGE) as file:
        file.write_text("\n\n".join(parts) + "\n")


def call(*command: str) -> None:
    """Run a command; its failure is this script's."""
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"{shlex.join(command)} failed")


if __name__ == "__main__":
    typer.run(main)
