"""A twin of every factor: one a pair and epoch is trained on, by a draw of its own."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chisquare
from small_images import image_row, smooth_image

from dgrl.errors import InputError
from dgrl.image_bank import ImageBank
from dgrl.mlr.protocol import MlrParams, describe, plan_split
from dgrl.superres.params import SrParams
from dgrl.superres.upscale import upscale_table
from dgrl.tables import read_keys, read_rows, write_table
from dgrl.training.batches import Batch, Batches
from dgrl.training.distributed import ALONE
from dgrl.training.params import AugmentParams, TrainParams
from pipeline.params import load_params
from pipeline.split import split

EVERY = MlrParams(lr_camera={"set": "a"}, twins="every_factor")
FACTORS = (2, 3, 4)
PLAIN = AugmentParams(flip=0.0, pad=0, erase=0.0)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight persons, two images by each of two cameras, in the table that the split reads."""
    rows = [
        replace(image_row(smooth_image(person, camera, index), person, camera), image_id=name, subset="all")
        for person in range(8)
        for camera in "ab"
        for index in range(2)
        for name in [f"{person}_{camera}_{index}"]
    ]
    write_table(tmp_path / "data/set/images", rows)
    params = load_params(Path(__file__).parents[1] / "params.yaml")
    monkeypatch.chdir(tmp_path)
    mlr = params.mlr.model_copy(update={"lr_camera": {"set": "a"}, "twins": "every_factor"})
    split("set", params.model_copy(update={"mlr": mlr}), workers=1)
    return tmp_path / "data/set/mlr"


def test_each_training_image_has_a_twin_of_every_factor(project: Path) -> None:
    originals = {row.image_id: row.pixels() for row in read_rows(project / "train_hr")}
    found = []
    for row in read_rows(project / "train_lr"):
        size = (48 // row.factor, 96 // row.factor)
        expected = cv2.resize(originals[row.image_id], size, interpolation=cv2.INTER_AREA)
        assert (row.pixels() == expected).all()
        found.append((row.image_id, row.factor))
    assert sorted(found) == sorted((image_id, factor) for image_id in originals for factor in FACTORS)


def test_queries_keep_their_one_factor(project: Path) -> None:
    queries = read_keys(project / "query")
    assert len(queries) == queries.image_id.nunique() == 8
    assert set(queries.factor) <= set(FACTORS)


def test_each_twin_has_its_sr_image(project: Path) -> None:
    upscale_table(project / "train_lr", project / "sr", {}, SrParams(method="bicubic"), workers=1)
    for low, high in zip(read_rows(project / "train_lr"), read_rows(project / "sr"), strict=True):
        assert (high.image_id, high.factor) == (low.image_id, low.factor)
        expected = cv2.resize(low.pixels(), (high.width, high.height), interpolation=cv2.INTER_CUBIC)
        assert (high.pixels() == expected).all()


def keys_of_persons() -> pd.DataFrame:
    return pd.DataFrame(
        [(f"{p}_{c}", str(p), c, "all") for p in range(8) for c in "ab"],
        columns=["image_id", "person_id", "camera_id", "subset"],
    )


@pytest.mark.parametrize("change", [{"real_lr": ("set",)}, {"training_pairs": "person"}])
def test_pairs_of_persons_have_every_factor_that_is_not_real(change: dict[str, object]) -> None:
    params = EVERY.model_copy(update=change)
    entries = plan_split(keys_of_persons(), "set", params).entries.values()
    pairs = Counter(entry.image_id for rows in entries for entry in rows if entry.table == "train_lr")
    assert set(pairs.values()) == ({1} if "real_lr" in change else {3})


def test_the_description_says_what_was_done() -> None:
    keys = keys_of_persons()
    made = describe(plan_split(keys, "set", EVERY), {}, "set", EVERY)
    assert made["options"]["twins"] == "every_factor"
    assert set(made["factors"]) == {f"{person}_a" for person in made["test_persons"]}
    real = EVERY.model_copy(update={"real_lr": ("set",)})
    assert "twins" not in describe(plan_split(keys, "set", real), {}, "set", real)["options"]


def banks(twins: int) -> tuple[ImageBank, ImageBank]:
    """HR images whose pixels are their row, SR images whose pixels are 100 * the twin + the HR row."""
    rows = np.arange(40)
    keys = pd.DataFrame(
        {"image_id": [f"i{row}" for row in rows], "person_id": [str(row % 10) for row in rows]}
    )
    order = np.random.default_rng(0).permutation(np.repeat(rows, twins))  # twins are anywhere in the table
    number = pd.Series(order).groupby(order).cumcount().to_numpy()

    def bank(values: np.ndarray, keys: pd.DataFrame) -> ImageBank:
        pixels = torch.from_numpy(values.astype(np.uint8)).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
        return ImageBank(pixels.contiguous(), keys.reset_index(drop=True))

    return bank(rows, keys), bank(40 * number + order, keys.iloc[order])


def batches(twins: int = 3, seed: int = 0) -> Batches:
    params = TrainParams.parse({"persons_per_batch": 5, "pairs_per_person": 2, "seed": seed}, "train")
    return Batches(*banks(twins), PLAIN, params, torch.device("cpu"), ALONE)


def drawn(batch: Batch) -> list[tuple[int, int]]:
    """Row and twin of each pair, of the pixels before they were normalised."""
    values = []
    for images in (batch.hr, batch.sr):
        red = images[:, 0, 0, 0] * 0.229 + 0.485
        values.append((red * 255).round().long())
    hr, sr = values
    assert (sr % 40 == hr).all()
    return list(zip(hr.tolist(), (sr // 40).tolist(), strict=True))


def twins_of_epoch(made: Batches, epoch: int) -> dict[int, int]:
    first = epoch * made.per_epoch
    pairs = {pair for step in range(first, first + made.per_epoch) for pair in drawn(made(step))}
    twins = dict(pairs)
    assert len(twins) == len(pairs) == 40  # every pair, each with one twin in an epoch
    return twins


def test_a_pair_has_one_twin_an_epoch_and_another_in_others() -> None:
    made = batches()
    epochs = [twins_of_epoch(made, epoch) for epoch in range(60)]
    for row in range(40):
        assert {epoch[row] for epoch in epochs} == {0, 1, 2}
    counts = Counter(twin for epoch in epochs for twin in epoch.values())
    assert chisquare([counts[twin] for twin in range(3)]).pvalue > 1e-4
    together = Counter((one[row], other[row]) for one, other in pairwise(epochs) for row in range(40))
    assert chisquare(list(together.values())).pvalue > 1e-4  # an epoch says nothing of the next


def test_a_draw_depends_on_nothing_but_seed_epoch_and_image() -> None:
    assert twins_of_epoch(batches(), 3) == twins_of_epoch(batches(), 3)
    assert twins_of_epoch(batches(), 3) != twins_of_epoch(batches(seed=1), 3)
    hr, sr = banks(3)
    kept = np.flatnonzero(sr.keys.image_id.isin(hr.keys.image_id[20:]))
    fewer = Batches(
        ImageBank(hr.images[20:], hr.keys[20:].reset_index(drop=True)),
        ImageBank(sr.images[kept], sr.keys.iloc[kept].reset_index(drop=True)),
        PLAIN, TrainParams.parse({"persons_per_batch": 5, "pairs_per_person": 2}, "train"),
        torch.device("cpu"), ALONE,
    )  # fmt: skip
    first = 3 * fewer.per_epoch
    some = dict(pair for step in range(first, first + fewer.per_epoch) for pair in drawn(fewer(step)))
    everything = twins_of_epoch(batches(), 3)
    assert some == {row: everything[row] for row in some}


def test_one_twin_each_needs_no_draw() -> None:
    assert set(twins_of_epoch(batches(1), 0).values()) == {0}


def test_an_image_that_lacks_a_twin_is_named() -> None:
    hr, sr = banks(3)
    lacking = ImageBank(sr.images[:-1], sr.keys[:-1])
    name = sr.keys.image_id.iloc[-1]
    params = TrainParams.parse({"persons_per_batch": 5}, "train")
    with pytest.raises(InputError, match=f"first {name}; write both again"):
        Batches(hr, lacking, PLAIN, params, torch.device("cpu"), ALONE)
