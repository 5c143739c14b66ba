"""The stage train with held-out persons: what is kept, and where it says so."""

import json
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from command_line import ROOT

from dgrl.superres.pretrain import publish_nothing
from dgrl.weights.published import trained_persons
from pipeline.cache_sr import cache_sr
from pipeline.download import download
from pipeline.evaluate import evaluate
from pipeline.params import Params, load_params
from pipeline.paths import Paths
from pipeline.split import split
from pipeline.train import train

PATHS = Paths("synthetic")


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A project in the working directory whose training has ended without its test images."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("dgrl", "pipeline", "dvc.yaml"):
        (folder / name).symlink_to(ROOT / name)
    values: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["source"]["synthetic"] |= {"persons": 32, "images_per_camera": 1, "width": 16, "height": 32}
    values["sr"]["method"] = "bicubic"
    values["model"] |= dict.fromkeys(("restormer", "non_local", "side_branches", "galn"), False)
    values["model"] |= {"height": 32, "width": 32}
    values["train"] |= {"persons_per_batch": 4, "epochs": 3, "learning_rate": 0.005, "held_out": 0.25}
    values["train"] |= {"eval_every": 1, "keep": "best", "ema_decay": 0.5}
    values["evaluate"] |= {"examples": 0, "untrained": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("params.yaml").write_text(yaml.safe_dump(values))
        params = load_params()
        download("synthetic", params)
        split("synthetic", params, workers=1)
        for scale in params.rcan.scales:
            publish_nothing(PATHS.rcan(scale), "sr.method is bicubic")
        cache_sr("synthetic", params, workers=1)
        test = [PATHS.mlr("query"), PATHS.mlr("gallery"), PATHS.sr("query"), PATHS.images]
        for table in test:
            table.rename(table.with_name(f"{table.name}.away"))
        train("synthetic", params)
        for table in test:
            table.with_name(f"{table.name}.away").rename(table)
        yield params


def test_the_config_says_which_epoch_was_kept_and_why(params: Params) -> None:
    config = json.loads(PATHS.config.read_text())
    measured = config["held_out"]
    assert [each["epoch"] for each in measured] == [1, 2, 3]
    best = max(measured, key=lambda each: each["mAP"])
    assert config["kept"] == {**best, "by": "mAP of held-out persons"}


def test_held_out_persons_neither_train_nor_are_tested(params: Params) -> None:
    split_persons = {name: set(pd.read_parquet(PATHS.mlr(name)).person_id) for name in ("train_hr", "query")}
    learned = {name.partition("/")[2] for name in trained_persons(PATHS.model)}
    assert len(learned) == 12
    assert learned < split_persons["train_hr"]
    assert len(split_persons["train_hr"]) == 16
    assert not split_persons["train_hr"] & split_persons["query"]


def test_the_curves_of_held_out_persons_are_plots(params: Params) -> None:
    config = json.loads(PATHS.config.read_text())
    file = PATHS.live / "plots/metrics/synthetic/held_out/mAP.tsv"
    curve = pd.read_csv(file, sep="\t").mAP
    assert curve.tolist() == pytest.approx([each["mAP"] for each in config["held_out"]], abs=1e-3)


def test_metrics_and_report_say_so_too(params: Params) -> None:
    kept = json.loads(PATHS.config.read_text())["kept"]
    evaluate("synthetic", params, workers=1)
    options = json.loads((PATHS.eval / "metrics.json").read_text())["synthetic"]["options"]
    assert options["train.kept_epoch"] == kept["epoch"]
    assert options["train.kept_by"] == "mAP of held-out persons"
    page = unescape((PATHS.eval / "report.html").read_text())
    why = f"mAP of held-out persons, {kept['mAP']:.1f} %"
    assert f"The weights are those of epoch {kept['epoch']}, kept for its {why}." in page
    assert "<h2>Held-out persons</h2>" in page
