"""Calibration beside brute force in float64, and on similarities whose probabilities are known."""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgrl.errors import InputError
from dgrl.evaluation.calibration import (
    METHODS,
    Calibration,
    Pairs,
    calibrate,
    expected_calibration_error,
    interval,
    make_pairs,
    threshold,
)
from dgrl.evaluation.ranking import DISTRACTOR, Embeddings
from dgrl.random import named_generator


def crowd(persons: int, spread: float, seed: int = 0, dimension: int = 16) -> tuple[Embeddings, Embeddings]:
    """A query and two gallery images of each person, and some distractors."""
    generator = named_generator("calibration", persons, seed)
    ids = np.concatenate([np.arange(persons), np.repeat(np.arange(persons), 2), np.full(5, DISTRACTOR)])
    centres = generator.normal(size=(persons + 1, dimension))
    points = centres[ids] + spread * generator.normal(size=(len(ids), dimension))
    points[ids == DISTRACTOR] = generator.normal(size=(5, dimension))
    features = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    cameras = np.concatenate([np.zeros(persons, int), np.tile([1, 0], persons), np.full(5, 2)])
    return (
        Embeddings(features[:persons], ids[:persons], cameras[:persons]),
        Embeddings(features[persons:], ids[persons:], cameras[persons:]),
    )


def brute_pairs(query: Embeddings, gallery: Embeddings) -> list[tuple[float, bool, int]]:
    found = []
    for row, (feature, person, camera) in enumerate(
        zip(query.features, query.person_ids, query.camera_ids, strict=True)
    ):
        for other, whose, where in zip(gallery.features, gallery.person_ids, gallery.camera_ids, strict=True):
            if person != whose or camera != where:
                similarity = math.fsum(float(a) * float(b) for a, b in zip(feature, other, strict=True))
                found.append((similarity, bool(person == whose), row))
    return found


def random_pairs(seed: int, count: int = 4000) -> tuple[Pairs, npt.NDArray[np.float64]]:
    """Pairs whose log-odds at even odds are 10 s - 3, and those."""
    generator = named_generator("pairs", seed)
    similarity = generator.uniform(-0.5, 1, count)
    truth = 1 / (1 + np.exp(3 - 10 * similarity))
    same = generator.random(count) < truth
    balance = math.log((~same).sum() / same.sum())  # what even odds are beside the drawn ones
    return Pairs(similarity, same, np.arange(count)), 10 * similarity - 3 + balance


def test_pairs_are_all_but_those_of_one_person_by_one_camera() -> None:
    query, gallery = crowd(7, 0.5)
    pairs, expected = make_pairs(query, gallery), brute_pairs(query, gallery)
    similarity, same, rows = zip(*expected, strict=True)
    np.testing.assert_allclose(pairs.similarity, similarity, rtol=0, atol=1e-15)
    assert (pairs.same.tolist(), pairs.query.tolist()) == (list(same), list(rows))


def test_fewer_pairs_of_two_persons_and_all_of_one() -> None:
    query, gallery = crowd(60, 0.5)
    everything, some = make_pairs(query, gallery), make_pairs(query, gallery, 1000)
    assert some.same.sum() == everything.same.sum() == 60
    assert 700 < (~some.same).sum() <= 1000
    assert set(some.query.tolist()) == set(range(60))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.sampled_from([0.5, 0.3, 0.1, 0.01]))
def test_no_lower_threshold_keeps_the_rate(values: list[int], rate: float) -> None:
    negatives = np.array(values) / 8
    found = threshold(negatives, rate)
    assert sum(value > found for value in negatives) <= rate * len(values)
    assert found == min(t for t in negatives if sum(v > t for v in negatives) <= rate * len(values))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 999), st.booleans(), st.floats(0.1, 1)), min_size=1, max_size=50))
def test_the_error_is_brute_forces(pairs: list[tuple[int, bool, float]]) -> None:
    places, same, weights = map(np.array, zip(*pairs, strict=True))
    probability = (places + 0.5) / 1000  # none on the border of two bins
    weights = weights / weights.sum()
    expected = 0.0
    for number in range(15):
        chosen = [
            row for row, value in enumerate(probability) if number / 15 <= value < (number + 1) / 15
        ]  # fmt: skip
        if chosen:
            weight = math.fsum(weights[row] for row in chosen)
            confidence = math.fsum(weights[row] * probability[row] for row in chosen) / weight
            share = math.fsum(weights[row] for row in chosen if same[row]) / weight
            expected += weight * abs(confidence - share)
    assert expected_calibration_error(probability, same, weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_the_log_odds_of_a_known_law_are_found(method: str) -> None:
    pairs, truth = random_pairs(0, 40_000)
    found = np.interp(pairs.similarity, *METHODS[method](pairs))  # type: ignore[index]
    error = np.abs(1 / (1 + np.exp(-found)) - 1 / (1 + np.exp(-truth)))
    assert error.mean() < 0.015


def test_the_line_is_the_best_of_its_neighbours() -> None:
    pairs, _ = random_pairs(1)
    weights = pairs.weights()
    knots, odds = METHODS["logistic"](pairs)

    def loss(left: float, right: float) -> float:
        line = np.interp(pairs.similarity, knots, [left, right])
        return math.fsum(weights * (np.logaddexp(0, line) - pairs.same * line))

    for left, right in ((0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05)):
        assert loss(odds[0] + left, odds[1] + right) > loss(*odds) - 1e-6


def test_isotonic_is_the_min_max_formula() -> None:
    pairs, _ = random_pairs(2, 60)
    pairs = pairs._replace(similarity=np.round(pairs.similarity, 1))  # ties
    values, weights = np.unique(pairs.similarity), pairs.weights()
    surest = 1 / (pairs.same.sum() + 2)

    def mean(low: float, high: float) -> float:
        chosen = (low <= pairs.similarity) & (pairs.similarity <= high)
        return float(weights[chosen] @ pairs.same[chosen] / weights[chosen].sum())

    knots, odds = METHODS["isotonic"](pairs)
    for value in values:
        best = max(min(mean(low, high) for high in values if high >= value) for low in values if low <= value)
        found = 1 / (1 + math.exp(-np.interp(value, knots, odds)))
        assert found == pytest.approx(min(max(best, surest), 1 - surest), abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_separable_pairs_stay_finite(method: str) -> None:
    pairs = Pairs(np.linspace(-1, 1, 100), np.arange(100) >= 50, np.arange(100))
    assert np.isfinite(METHODS[method](pairs)[1]).all()  # type: ignore[index]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        generator = named_generator("interval test", seed)
        chance = generator.beta(4, 2, 80)  # of each person; they have 1 to 9 pairs
        persons = np.repeat(np.arange(80), generator.integers(1, 10, 80))
        low, high = interval(generator.random(len(persons)) < chance[persons], persons, seed)
        covered += low <= 4 / 6 <= high
    assert 0.9 <= covered / 200 <= 0.99


def test_the_whole_calibration_of_a_crowd() -> None:
    query, gallery = crowd(300, 0.6)
    factors = 2 + np.arange(300) % 2
    calibration, metrics = calibrate(query, gallery, factors, "d" * 64)
    assert calibration is not None
    assert metrics["calibration.ece"] < 5
    pairs = brute_pairs(query, gallery)
    for rate, name in (("0.01", "tpr_at_1e-2"), ("0.001", "tpr_at_1e-3")):
        limit = calibration.thresholds[rate]
        negatives = [similarity > limit for similarity, same, _ in pairs if not same]
        assert sum(negatives) / len(negatives) == pytest.approx(float(rate), rel=0.02)
        hits = {row: similarity > limit for similarity, same, row in pairs if same}
        assert metrics[f"calibration.{name}"] == pytest.approx(100 * sum(hits.values()) / 300)
        for factor in (2, 3):
            rows = range(factor - 2, 300, 2)
            found = metrics[f"factor{factor}.{name}"]
            assert found == pytest.approx(100 * sum(hits[row] for row in rows) / 150)
            assert metrics[f"factor{factor}.{name}_low"] < found < metrics[f"factor{factor}.{name}_high"]
            wrong = [value > limit for value, same, row in pairs if not same and row in rows]
            assert metrics[f"factor{factor}.{name.replace('tpr', 'fmr')}"] == pytest.approx(
                100 * sum(wrong) / len(wrong)
            )
        assert metrics[f"calibration.{name}_low"] < metrics[f"calibration.{name}"]
        assert metrics[f"calibration.{name}_high"] > metrics[f"calibration.{name}"]
    assert set(calibration.thresholds) == {"0.1", "0.01", "0.001", "0.0001"}  # 180,000 pairs: 1.8 at 1e-5
    again = Calibration.parse(calibration.model_dump(mode="json"), "")
    assert again == calibration


def test_a_factor_with_another_law_has_another_error() -> None:
    query, gallery = crowd(300, 0.6)
    other, _ = crowd(300, 1.5)  # of the same persons
    blurred = np.arange(300) % 2 == 0
    features = np.where(blurred[:, None], other.features, query.features)
    _, metrics = calibrate(replace(query, features=features), gallery, np.where(blurred, 4, 2), "d")
    assert metrics["factor4.ece"] > metrics["calibration.ece"]
    assert metrics["factor4.tpr_at_1e-2_high"] < metrics["factor2.tpr_at_1e-2_low"]
    _, alike = calibrate(query, gallery, np.where(blurred, 4, 2), "d")
    assert alike["factor4.ece"] < metrics["factor4.ece"]


def test_probabilities_hold_for_other_persons() -> None:
    calibration, _ = calibrate(*crowd(300, 0.6), np.full(300, 2), "d")
    assert calibration is not None
    pairs = make_pairs(*crowd(300, 0.6, seed=1))
    probability = calibration.probability(pairs.similarity)
    assert expected_calibration_error(probability, pairs.same, pairs.weights()) < 0.05
    share = pairs.same.mean()
    natural = calibration.probability(pairs.similarity, prior=float(share))
    assert natural.sum() == pytest.approx(pairs.same.sum(), rel=0.3)


@pytest.mark.parametrize("persons", [1, 2])
def test_too_few_persons_are_not_calibrated(persons: int) -> None:
    query, gallery = crowd(persons, 0.1)
    alone = Embeddings(*(part[gallery.person_ids != DISTRACTOR] for part in (
        gallery.features, gallery.person_ids, gallery.camera_ids)))  # fmt: skip
    assert calibrate(query, alone, np.full(persons, 2), "d") == (None, {})


def test_a_damaged_calibration_is_refused() -> None:
    calibration, _ = calibrate(*crowd(50, 0.6), np.full(50, 2), "d")
    assert calibration is not None
    values = calibration.model_dump(mode="json")
    with pytest.raises(InputError, match="same length"):
        Calibration.parse(values | {"log_odds": []}, "", "calibration.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("similarity", [0.5, 0.0]),
        ("similarity", []),
        ("thresholds", {"0": 0.1}),
        ("thresholds", {"1": 0.1}),
        ("thresholds", {"nan": 0.1}),
        ("thresholds", {"often": 0.1}),
        ("thresholds", {"0.0010": 0.1}),
        ("thresholds", {"-0.1": 0.1}),
    ],
)
def test_a_calibration_that_is_none(key: str, value: object) -> None:
    good = {
        "model": "d", "method": "isotonic", "similarity": [0.0, 0.5], "log_odds": [0.0, 1.0],
        "thresholds": {"0.001": 0.1, "1e-05": 0.2}, "pairs": [1, 2],
    }  # fmt: skip
    Calibration.parse(good, "")
    with pytest.raises(InputError, match=key):
        Calibration.parse(good | {key: value}, "")
