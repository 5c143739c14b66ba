"""CUHK03 has images narrower than RCAN's patch: the paper preset leaves them out there, and goes on."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from mat_files import PERSONS, Contents, expect_small, write_mat

from dgrl.tables import read_keys
from pipeline.cache_sr import cache_sr
from pipeline.download import download
from pipeline.evaluate import evaluate
from pipeline.params import load_params
from pipeline.preset import preset
from pipeline.pretrain_sr import pretrain_sr
from pipeline.split import split
from pipeline.train import train

ROOT = Path(__file__).parents[1]
SMALL = {
    "datasets": ["cuhk03"],
    "rcan": {"features": 16, "groups": 1, "blocks": 1, "iterations": 2, "batch": 2},
    "model": {"backbone": "resnet18", "weights": "none", "height": 64, "width": 32, "dimension": 16},
    "train": {
        "epochs": 1,
        "learning_rate": 0.005,
        "persons_per_batch": 2,
        "pairs_per_person": 1,
        "warmup_epochs": 0,
    },
}


def widths() -> Contents:
    """Two images of each person; of every other person they have 46 and 47 columns, as real ones do."""
    rng = np.random.default_rng(0)
    cells = [(pair, row) for pair, persons in enumerate(PERSONS, 1) for row in range(1, persons + 1)]
    return {
        (*cell, column): rng.integers(0, 256, (100, width + (number % 2) * 14, 3), np.uint8)
        for number, cell in enumerate(cells)
        for column, width in ((1, 46), (6, 47))
    }


@pytest.mark.slow
@pytest.mark.parametrize("twins", ["one", "every_factor"])
def test_the_paper_preset_goes_through_all_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, twins: str
) -> None:
    contents = widths()
    expect_small(monkeypatch, contents, contents)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for folder in ("dgrl", "pipeline"):
        (tmp_path / folder).symlink_to(ROOT / folder)  # whose digests name the resume state
    monkeypatch.chdir(tmp_path)
    preset("paper")
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["source"]["cuhk03"]["archive"] = str(write_mat(tmp_path / "cuhk-03.mat", contents, contents))
    values["mlr"]["twins"] = twins
    for section, changes in SMALL.items():
        values[section] = values[section] | changes if isinstance(changes, dict) else changes
    Path("params.yaml").write_text(yaml.safe_dump(values))
    params = load_params()
    assert params.rcan.patch == 48

    download("cuhk03", params)
    split("cuhk03", params, workers=1)
    caplog.set_level(logging.WARNING)
    for scale in params.rcan.scales:
        assert pretrain_sr("cuhk03", scale, params)
    training = read_keys(Path("data/cuhk03/mlr/train_hr"))
    narrow = int((training.width < 48).sum())
    assert 0 < narrow < len(training)
    told = [message for message in caplog.messages if f"{narrow} of {len(training)} images" in message]
    assert len(told) == 3
    cache_sr("cuhk03", params, workers=1)
    assert len(read_keys(Path("data/cuhk03/sr/train"))) == len(training) * (
        3 if twins == "every_factor" else 1
    )
    train("cuhk03", params)
    metrics = evaluate("cuhk03", params)
    assert metrics
    assert all(0 <= value <= 100 for value in metrics.values())
