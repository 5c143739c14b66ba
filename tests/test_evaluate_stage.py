"""Stage evaluate: which training images its whitening is fitted on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Command, change

from dgrl.mlr.protocol import seen_by_lr_camera
from dgrl.tables import read_keys
from pipeline.evaluate import _adaptation_pairs
from pipeline.params import load_params
from pipeline.paths import Paths


class Means:
    """An extractor of each image's mean colour."""

    def embed_tensor(self, images: torch.Tensor, stream: str) -> np.ndarray:
        return np.asarray(images.float().mean(dim=(2, 3)).numpy())


@pytest.mark.parametrize("lr_camera", ["c2", "c[12]", "random"])
def test_the_whitening_is_fitted_on_the_lr_camera_and_the_others(dgrl: Command, lr_camera: str) -> None:
    change("mlr", lr_camera={"synthetic": lr_camera}, factors=[2])
    change("sr", method="none")
    for stage in ("download", "split", "cache-sr"):
        assert dgrl(stage, "synthetic")[0] == 0
    images = read_keys(Path("data/synthetic/images"))
    by_lr = dict(
        zip(
            zip(images.person_id, images.camera_id, strict=True),
            seen_by_lr_camera(images, "synthetic", load_params().mlr),
            strict=True,
        )
    )
    paths: Any = Paths("synthetic")
    train = read_keys(paths.mlr("train_hr"))
    query, gallery = _adaptation_pairs("synthetic", paths, Means(), (32, 16))  # type: ignore[arg-type]
    expected = [by_lr[pair] for pair in zip(train.person_id, train.camera_id, strict=True)]
    assert len(query.features) == sum(expected) > 0
    assert len(gallery.features) == len(expected) - sum(expected)
    seen = [set(zip(side.person_ids, side.camera_ids, strict=True)) for side in (query, gallery)]
    assert not seen[0] & seen[1]
