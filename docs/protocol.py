"""How much of a Rank-1 is the protocol: write docs/results/protocol.json, and its tables in docs/results.md.

    dgrl download viper
    python docs/protocol.py NETWORK... --rcan data/pool/rcan [--trials 10]

Each network is measured on MLR-VIPeR under every recipe of LR images (docs/benchmarks.md), given to the
network's own resize, then under the paper's recipe with its LR images enlarged by each method before. RCAN
must have learned from another dataset, since the trials test with all persons. The networks are named as for
``dgrl compare``.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from marks import write_part

from dgrl.files import atomic_file
from dgrl.mlr.degrade import RECIPES
from pipeline.experiments.compare import Result, Upscale, compare
from pipeline.experiments.compare_files import mean_and_deviation
from pipeline.params import load_params

PAGE = Path(__file__).with_name("results.md")
FILE = Path(__file__).parent / "results/protocol.json"
UPSCALES: tuple[Upscale, ...] = ("none", "bicubic", "rcan")
TITLES = {
    "recipe": "By recipe of the LR images",
    "upscale": "By what enlarges an LR image before the network's own resize, recipe dgrl",
}

Measured = dict[str, dict[str, list[Result]]]  # by title and option


def main(
    networks: Annotated[list[str], typer.Argument(metavar="NETWORK...")],
    rcan: Annotated[Path, typer.Option(help="Folder of RCANs of another dataset.")],
    trials: int = 10,
) -> None:
    """Measure, and write."""
    params = load_params()
    measured: Measured = {title: {} for title in TITLES}
    for recipe in RECIPES:
        by_recipe = params.model_copy(update={"mlr": params.mlr.model_copy(update={"recipe": recipe})})
        measured["recipe"][recipe] = compare(networks, ["viper"], by_recipe, trials=trials)
    measured["upscale"]["none"] = measured["recipe"]["dgrl"]
    for method in UPSCALES[1:]:
        folder = rcan if method == "rcan" else None
        results = compare(networks, ["viper"], params, trials=trials, upscale=method, rcan=folder)
        measured["upscale"][method] = results
    with atomic_file(FILE) as file:
        file.write_text(json.dumps(as_json(measured), indent=1) + "\n")
    write_part(PAGE, "protocol", tables(measured))


def as_json(measured: Measured) -> dict[str, dict[str, list[dict[str, object]]]]:
    """The results as JSON has them."""
    return {
        title: {option: [asdict(result) for result in results] for option, results in rows.items()}
        for title, rows in measured.items()
    }


def load() -> Measured:
    """What was measured last."""
    return {
        title: {option: [Result(**each) for each in results] for option, results in rows.items()}
        for title, rows in json.loads(FILE.read_text()).items()
    }


def tables(measured: Measured) -> str:
    """Rank-1, mean and deviation over the trials: a row for each option, a column for each network."""
    parts = []
    for title, rows in measured.items():
        cells = [
            {title: option, **{each.network: mean_and_deviation(each, "rank1") for each in results}}
            for option, results in rows.items()
        ]
        table = pd.DataFrame(cells).to_markdown(index=False, disable_numparse=True)
        parts.append(f"{TITLES[title]}; Rank-1, single-shot, percent:\n\n{table}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    typer.run(main)
