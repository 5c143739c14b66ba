"""Persons who do not train: their metrics, and what of a run is kept for these."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_training import AUGMENT, MODEL, Curve, train_params

from dgrl.errors import DivergedError, InputError
from dgrl.evaluation.ranking import TIE
from dgrl.image_bank import ImageBank
from dgrl.model.inputs import normalise
from dgrl.model.losses import loss_terms
from dgrl.model.network import DGRL
from dgrl.model.params import LossParams
from dgrl.random import named_generator
from dgrl.training.batches import Batches, hold_out
from dgrl.training.distributed import ALONE
from dgrl.training.held_out import MEAN_AP, RANK1, HeldOut, best
from dgrl.training.params import TrainParams
from dgrl.training.trainer import train
from dgrl.weights.checkpoint import load_checkpoint
from dgrl.weights.initial import build

CPU = torch.device("cpu")
SMALL = MODEL.model_copy(update=dict.fromkeys(("restormer", "non_local", "side_branches", "galn"), False))
Weights = dict[str, torch.Tensor]


def test_a_share_of_the_persons_is_held_out_rounded_up() -> None:
    for number in (1, 7, 100, 316):
        persons = [str(person) for person in range(number)]
        for percent in range(100):
            held_out = hold_out(persons, percent / 100, seed=0)
            assert len(held_out) == ceil(Fraction(percent, 100) * number)
            assert set(held_out) <= set(persons)


def banks(persons: int = 6, cameras: int = 3, images: int = 2) -> tuple[ImageBank, ImageBank]:
    """Noise; person 0 has one camera only."""
    seen = [
        (str(person), f"c{camera}", image)
        for person in range(persons)
        for camera in range(cameras if person else 1)
        for image in range(images)
    ]
    keys = pd.DataFrame(
        {
            "image_id": ["_".join(map(str, each)) for each in seen],
            "person_id": [person for person, _, _ in seen],
            "camera_id": [camera for _, camera, _ in seen],
            "subset": "train",
        }
    )
    pixels = named_generator("held_out").integers(0, 256, (2, len(keys), 3, 32, 32), np.uint8)
    sides = [keys.assign(pixel_sha256=[hashlib.sha256(each).hexdigest() for each in side]) for side in pixels]
    hr, sr = (ImageBank(torch.from_numpy(side), own) for side, own in zip(pixels, sides, strict=True))
    return hr, sr


def brute_force(model: DGRL, hr: ImageBank, sr: ImageBank, persons: set[str]) -> tuple[float, float]:
    """Rank-1, by the chance that a positive is ahead of an image of each other person; and mAP."""
    with torch.no_grad():
        queries = model.embed(normalise(sr.images), "sr").double().numpy()
        gallery = model.embed(normalise(hr.images), "hr").double().numpy()
    firsts, precisions = [], []
    for query, asked in zip(queries, sr.keys.to_dict("records"), strict=True):
        rows = [
            (shown["person_id"], float(query @ feature))
            for feature, shown in zip(gallery, hr.keys.to_dict("records"), strict=True)
            if shown["person_id"] in persons
            and (shown["person_id"] != asked["person_id"] or shown["camera_id"] != asked["camera_id"])
        ]
        positives = sorted((value for person, value in rows if person == asked["person_id"]), reverse=True)
        thresholds = [positive - TIE for positive in positives]  # as near is ahead
        if asked["person_id"] not in persons or not positives:
            continue
        others = {person for person, _ in rows} - {asked["person_id"]}
        ahead = [
            sum(v >= threshold for person, v in rows if person != asked["person_id"])
            for threshold in thresholds
        ]
        precisions.append(np.mean([found / (found + wrong) for found, wrong in enumerate(ahead, 1)]))
        firsts.append(
            np.mean(
                [
                    np.prod([np.mean([v < threshold for p, v in rows if p == other]) for other in others])
                    for threshold in thresholds
                ]
            )
        )
    return 100 * float(np.mean(firsts)), 100 * float(np.mean(precisions))


@pytest.mark.parametrize("persons", [{"1", "2", "3"}, {"0", "1", "2", "3", "4", "5"}])
def test_metrics_are_those_of_a_loop_over_the_images(persons: set[str]) -> None:
    model, (hr, sr) = build(SMALL, 6, 0)[0].eval(), banks()
    metrics = HeldOut(hr, sr, persons, CPU)(model)
    expected = brute_force(model, hr, sr, persons)
    assert (metrics[RANK1], metrics[MEAN_AP]) == pytest.approx(expected, abs=1e-3)
    assert 0 < metrics[RANK1] < 100


def test_an_image_of_several_pairs_counts_once() -> None:
    model, (hr, sr) = build(SMALL, 6, 0)[0].eval(), banks()
    rows = [*range(len(hr)), 5, 8, 8]
    many = [ImageBank(bank.images[rows], bank.keys.iloc[rows].reset_index(drop=True)) for bank in (hr, sr)]
    held_out = {"1", "2", "3"}
    once = HeldOut(hr, sr, held_out, CPU)(model)
    assert HeldOut(many[0], many[1], held_out, CPU)(model) == pytest.approx(once, abs=1e-3)


def test_persons_of_one_camera_each_are_refused() -> None:
    with pytest.raises(InputError, match=r"two cameras saw none of the 1 persons; raise train\.held_out or"):
        HeldOut(*banks(), {"0"}, CPU)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"eval_every": 1},
            "train: eval_every measures held-out persons; set held_out to a share of them",
        ),
        ({"keep": "best"}, "train: keep = 'best' chooses among measured epochs; set eval_every and epochs"),
        ({"keep": "best", "held_out": 0.2}, "train: keep = 'best' chooses among measured epochs; set eval"),
        (
            {"keep": "best", "held_out": 0.2, "eval_every": 1, "epochs": 0},
            "train: keep = 'best' chooses among measured epochs; set eval_every and epochs above 0",
        ),
        ({"keep": "worst"}, "train.keep = 'worst': input should be 'last' or 'best'"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(InputError) as caught:
        train_params(**changes)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


class Record:
    """Measures by a digest of the weights, so that no epoch is like another; keeps the weights it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, Weights]] = []

    def __call__(self, model: torch.nn.Module) -> dict[str, float]:
        assert not model.training
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        digest = hashlib.sha256(weights["heads.0.classifier.weight"].numpy().tobytes())
        self.seen.append((digest.digest()[0] % 7, weights))  # of 7 values, so that some are equal
        return {RANK1: 1.0, MEAN_AP: self.seen[-1][0]}


def run(
    checkpoint: Path,
    params: TrainParams,
    measure: Callable[[torch.nn.Module], dict[str, float]] | None,
    curve: Curve | None = None,
) -> tuple[Weights, list[dict[str, float]]]:
    """The weights that a run ends with, and its log; 4 steps an epoch."""
    hr, sr = banks()
    batches = Batches(hr, sr, AUGMENT, params, CPU, ALONE)
    model = build(SMALL, batches.persons, params.seed)[0]

    def losses(output: Any, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return loss_terms(output, targets, LossParams())

    log = curve or Curve()
    history = train(
        model,
        losses,
        batches,
        params,
        checkpoint,
        log,
        measure=measure,
        log_every=2,
        checkpoint_every=5,
    )
    assert not model.training
    return model.state_dict(), history


def require_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def best_params(**changes: object) -> TrainParams:
    values = {"keep": "best", "eval_every": 1, "held_out": 0.1, "epochs": 3}
    return train_params(**(values | changes))


@dataclass(frozen=True)
class Whole:
    """A run that nothing disturbs: its last weights, its log, and what was measured."""

    params: TrainParams
    weights: Weights
    history: list[dict[str, float]]
    seen: list[tuple[float, Weights]]


@pytest.fixture(scope="module", params=[0.0, 0.9], ids=["plain", "ema"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    params, record = best_params(ema_decay=request.param), Record()
    weights, history = run(tmp_path_factory.mktemp("whole") / "checkpoint", params, record)
    return Whole(params, weights, history, record.seen)


def test_the_first_of_the_best_epochs_is_kept(whole: Whole) -> None:
    values = [value for value, _ in whole.seen]
    assert len(values) == 3
    kept = values.index(max(values))
    require_equal(whole.weights, whole.seen[kept][1])
    measured = [each for each in whole.history if MEAN_AP in each]
    assert [each[MEAN_AP] for each in measured] == values
    assert best(measured) is measured[kept]


@pytest.mark.parametrize("stop_after", [8, 12])
def test_a_resumed_run_keeps_the_same_weights(whole: Whole, tmp_path: Path, stop_after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", whole.params, Record(), Curve(stop_after=stop_after))
    state = load_checkpoint(tmp_path / "cut")
    assert state is not None
    assert 0 < state["step"] < stop_after
    assert state["kept"]
    found, resumed = run(tmp_path / "cut", whole.params, Record())
    require_equal(found, whole.weights)
    for left, right in zip(whole.history, resumed, strict=True):
        assert left | {"images_per_second": 0} == right | {"images_per_second": 0}


def test_measuring_does_not_touch_the_run(tmp_path: Path) -> None:
    hr, sr = banks()
    params = best_params(keep="last", eval_every=2, ema_decay=0.9)
    expected, plain = run(tmp_path / "plain", params, None)
    found, measured = run(tmp_path / "measured", params, HeldOut(hr, sr, {"1", "2"}, CPU))
    require_equal(found, expected)
    assert [each["step"] for each in measured if MEAN_AP in each] == [
        each["step"] for each in plain if each["step"] in (8, 12)
    ]  # after two epochs, and after the last


def test_weights_that_are_not_finite_are_not_measured(tmp_path: Path) -> None:
    params = best_params(learning_rate=1e39, epochs=1)
    with pytest.raises(DivergedError, match=r"after step \d \(learning rate 1e\+39\) the tensor|at step \d"):
        run(tmp_path / "checkpoint", params, HeldOut(*banks(), {"1", "2"}, CPU))
