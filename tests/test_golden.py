"""Twenty training steps whose losses are committed: what a change of the method cannot leave as they are.

They are run in float64: in float32 the order of a sum, which differs from CPU to CPU, changes the losses by
a hundredth within five steps.

``python tests/test_golden.py`` writes the file anew, for a change that is meant to move them.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_training import prepare

from dgrl.datasets.synthetic import SyntheticParams, images
from dgrl.image_bank import ImageBank, resize
from dgrl.images import Image
from dgrl.mlr.degrade import downsample
from dgrl.model.params import ModelParams
from dgrl.training.params import AugmentParams, TrainParams
from dgrl.training.trainer import train

GOLDEN = Path(__file__).with_name("golden.json")
HEIGHT, WIDTH = 32, 32
PEOPLE = SyntheticParams(persons=6, cameras=4, images_per_camera=1, width=WIDTH, height=HEIGHT, seed=0)
MODEL = ModelParams(backbone="resnet18", weights="none", height=HEIGHT, width=WIDTH, dimension=32, groups=4)
TRAIN = TrainParams(persons_per_batch=3, pairs_per_person=2, epochs=5, warmup_epochs=5, precision="float32")


def banks() -> tuple[ImageBank, ImageBank]:
    """Each image, and what bicubic interpolation makes of it from a half, a third or a quarter."""
    rows = list(images(PEOPLE))
    keys = pd.DataFrame({"image_id": [r.image_id for r in rows], "person_id": [r.person_id for r in rows]})
    sharp = [row.pixels() for row in rows]
    blurred = [resize(downsample(each, 2 + i % 3), HEIGHT, WIDTH) for i, each in enumerate(sharp)]

    def bank(images: list[Image]) -> ImageBank:
        return ImageBank(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), keys)

    return bank(sharp), bank(blurred)


@contextmanager
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def losses(folder: Path) -> dict[int, dict[str, float]]:
    """Each term at each step."""
    curve: dict[int, dict[str, float]] = {}

    def log(step: int, metrics: Mapping[str, float]) -> None:
        curve[step] = {name: value for name, value in metrics.items() if name.startswith("loss/")}

    with float64():
        network, terms, batches = prepare(*banks(), TRAIN, MODEL, AugmentParams(pad=4))
        train(network, terms, batches, TRAIN, folder / "checkpoint.pt", log, log_every=1)
    return curve


@pytest.mark.slow
def test_the_losses_of_twenty_steps_are_the_committed_ones(tmp_path: Path) -> None:
    golden = {int(step): metrics for step, metrics in json.loads(GOLDEN.read_text()).items()}
    found = losses(tmp_path)
    assert found.keys() == golden.keys() == set(range(1, 21))
    for step, metrics in golden.items():
        assert found[step] == pytest.approx(metrics, abs=1e-4), f"step {step}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        rounded = {
            step: {name: round(value, 6) for name, value in metrics.items()}
            for step, metrics in losses(Path(folder)).items()
        }
    GOLDEN.write_text(json.dumps(rounded, indent=1) + "\n")
