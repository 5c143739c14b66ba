"""From a cosine similarity to the probability of one person, and to a threshold below which nobody is named.

A pair is a query and a gallery image; those of one person by one camera are left out, as in the ranking.
Pairs of one person and of two weigh the same in all, whatever their numbers, so a probability is that at even
odds; ``Calibration.probability`` takes other odds.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Strict, model_validator
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, logit

from dgrl.config import Section, shown
from dgrl.evaluation.ranking import DISTRACTOR, Embeddings
from dgrl.random import named_generator

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Tuple = Annotated[tuple[float, ...], Strict(False)]

RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # false-match rates with a threshold, where pairs are enough
REPORTED = (1e-2, 1e-3)
PAIRS_PER_RATE = 10  # false matches that a threshold is read from, at least
NEGATIVES = 4_000_000  # pairs of two persons, about and at most
BINS = 15  # of the expected calibration error
RESAMPLES = 2000  # of the persons, for an interval
CHUNK = 256  # queries

logger = logging.getLogger(__name__)


class Pairs(NamedTuple):
    """P pairs.

    Args:
        similarity: [P] float64.
        same: [P] bool, whether both images show one person.
        query: [P] int64, the query's row.
    """

    similarity: Floats
    same: Mask
    query: npt.NDArray[np.int64]

    def weights(self) -> Floats:
        """[P], of either kind half of the sum, which is 1."""
        share = self.same.mean()
        return np.asarray(np.where(self.same, 0.5 / share, 0.5 / (1 - share)) / len(self.same))

    def select(self, rows: Mask) -> Self:
        """Those of ``rows`` [P]."""
        return type(self)(self.similarity[rows], self.same[rows], self.query[rows])


class Calibration(Section):
    """What ``calibrate`` found, as ``calibration.json`` keeps it.

    Args:
        model: digest of the network whose similarities these are.
        method: how it was fitted.
        similarity: knots, ascending.
        log_odds: of one person at even odds, at each knot; linear between them.
        thresholds: by false-match rate; a match is more similar than that.
        pairs: of one person, and of two.
    """

    model: str
    method: Literal["logistic", "isotonic"]
    similarity: Tuple
    log_odds: Tuple
    thresholds: dict[str, float]
    pairs: Annotated[tuple[int, int], Strict(False)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.similarity) != len(self.log_odds) or not self.similarity:
            raise ValueError("similarity and log_odds must have the same length, at least 1")
        if list(self.similarity) != sorted(self.similarity):
            raise ValueError("similarity must ascend")
        for rate in self.thresholds:
            try:
                is_rate = 0 < float(rate) < 1 and rate == f"{float(rate):g}"
            except ValueError:
                is_rate = False
            if not is_rate:
                raise ValueError(f"thresholds: {shown(rate)} is no false-match rate such as 0.001")
        return self

    def probability(self, similarity: npt.ArrayLike, prior: float = 0.5) -> Floats:
        """The probability of one person.

        Args:
            similarity: any shape.
            prior: the probability before the images are seen; 1 / N where one of N images shows the person.
        """
        return np.asarray(
            expit(np.interp(np.asarray(similarity, float), self.similarity, self.log_odds) + logit(prior))
        )


def make_pairs(query: Embeddings, gallery: Embeddings, negatives: int = NEGATIVES) -> Pairs:
    """All pairs of one person, and every n-th of two persons: about ``negatives`` of them at most."""
    step = max(1, -(-len(query.features) * len(gallery.features) // negatives))
    columns = np.arange(len(gallery.features))
    parts = []
    for start in range(0, len(query.features), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(query.features)))
        similarity = query.features[rows].astype(np.float64) @ gallery.features.T.astype(np.float64)
        same = query.person_ids[rows, None] == gallery.person_ids
        same_camera = query.camera_ids[rows, None] == gallery.camera_ids
        kept = np.where(same, ~same_camera, (rows[:, None] + columns) % step == 0)
        parts.append((similarity[kept], same[kept], np.broadcast_to(rows[:, None], kept.shape)[kept]))
    return Pairs(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def calibrate(
    query: Embeddings, gallery: Embeddings, factors: npt.NDArray[np.integer], model: str, seed: int = 0
) -> tuple[Calibration | None, dict[str, float]]:
    """Calibrate on all pairs; its error is measured on persons that it was not fitted on, in two folds.

    Args:
        query: N embeddings.
        gallery: M embeddings.
        factors: the down-sampling factor of each query [N].
        model: digest of the network.
        seed: of the folds, and of the intervals.

    Returns:
        The calibration, by the method with the lower error; None where the persons are too few. And its
        metrics in percent: ``calibration.ece`` (expected calibration error); ``calibration.tpr_at_1e-2``
        (true matches that are accepted at that rate of false ones) with its 95 % interval over persons,
        ``_low`` and ``_high``; and, of the queries of a factor by the same calibration and threshold,
        ``factor<r>.ece``, ``factor<r>.tpr_at_1e-2`` with its interval, and ``factor<r>.fmr_at_1e-2``, their
        own rate of false matches.
    """
    halves = _two_folds(query, gallery, factors, seed)
    folds = [make_pairs(*half[:2]) for half in halves if len(half[0].features)]
    if len(folds) < 2 or not all(fold.same.any() and not fold.same.all() for fold in folds):
        logger.info("too few persons to calibrate: each half needs pairs of one person and of two")
        return None, {}
    fits = {name: [fit(fold) for fold in reversed(folds)] for name, fit in METHODS.items()}  # on the other
    errors = {name: _error(folds, fitted) for name, fitted in fits.items()}
    method = min(errors, key=lambda name: errors[name])
    pairs = make_pairs(query, gallery)
    knots, log_odds = METHODS[method](pairs)
    negatives = pairs.similarity[~pairs.same]
    found = {f"{rate:g}": threshold(negatives, rate) for rate in _supported(RATES, len(negatives))}
    metrics = {"calibration.ece": 100 * errors[method]}
    for rate in _supported(REPORTED, len(negatives)):
        limit = found[f"{rate:g}"]
        metrics |= _accepted("calibration", rate, limit, pairs, query.person_ids, seed)
        for factor in np.unique(factors[pairs.query[pairs.same]]).tolist():
            part, name = pairs.select(factors[pairs.query] == factor), f"factor{factor}"
            metrics |= _accepted(name, rate, limit, part, query.person_ids, seed)
            if not part.same.all():
                false = part.similarity[~part.same] > limit
                metrics[f"{name}.fmr_at_{_power(rate)}"] = 100 * float(false.mean())
    for factor in np.unique(factors).tolist():
        parts = [fold.select(half[2][fold.query] == factor) for half, fold in zip(halves, folds, strict=True)]
        if all(part.same.any() for part in parts):
            metrics[f"factor{factor}.ece"] = 100 * _error(parts, fits[method])
    calibration = Calibration(
        model=model,
        method=method,
        similarity=tuple(knots.tolist()),
        log_odds=tuple(log_odds.tolist()),
        thresholds=found,
        pairs=(int(pairs.same.sum()), len(negatives)),
    )
    return calibration, metrics


def threshold(negatives: Floats, rate: float) -> float:
    """The least similarity that at most a share ``rate`` of the pairs of two persons [N] exceed."""
    place = len(negatives) - 1 - int(rate * len(negatives))
    return float(np.partition(negatives, place)[place])


def expected_calibration_error(probability: Floats, same: Mask, weights: Floats) -> float:
    """Mean distance of the probability and the share of one person, in ``BINS`` bins of equal width.

    Args:
        probability: [P].
        same: [P].
        weights: [P], of sum 1.
    """
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    distance = np.bincount(bins, weights * (probability - same), BINS)
    return float(np.abs(distance).sum())


def interval(hits: Mask, persons: npt.NDArray[np.integer], seed: int) -> tuple[float, float]:
    """The 95 % interval of a share of hits, by resampling persons, whose pairs depend on each other.

    Args:
        hits: [P] bool.
        persons: [P], whose pair it is.
        seed: of the resampling.
    """
    codes = np.unique(persons, return_inverse=True)[1]
    pairs, right = np.bincount(codes), np.bincount(codes, hits)
    drawn = named_generator("interval", seed).multinomial(
        len(pairs), np.full(len(pairs), 1 / len(pairs)), RESAMPLES
    )
    low, high = np.quantile((drawn @ right) / (drawn @ pairs), [0.025, 0.975])
    return float(low), float(high)


def logistic(pairs: Pairs) -> tuple[Floats, Floats]:
    """Log-odds linear in the similarity (Platt scaling, with his targets, which keep it finite)."""
    count = pairs.same.sum(), (~pairs.same).sum()
    target = np.where(pairs.same, (count[0] + 1) / (count[0] + 2), 1 / (count[1] + 2))
    weights, similarity = pairs.weights(), pairs.similarity
    centre, spread = similarity.mean(), max(similarity.std(), 1e-12)
    scaled = (similarity - centre) / spread

    def loss(line: Floats) -> tuple[float, Floats]:
        odds = line[0] * scaled + line[1]
        slope = weights * (expit(odds) - target)
        return float(weights @ (np.logaddexp(0, odds) - target * odds)), np.array(
            [slope @ scaled, slope.sum()]
        )

    slope, height = minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    knots = np.array([-1.0, 1.0])  # a line, as far as similarities go
    return knots, slope * (knots - centre) / spread + height


def isotonic(pairs: Pairs) -> tuple[Floats, Floats]:
    """The best log-odds that only rise with the similarity; as sure as the pairs of one person allow."""
    knots, inverse = np.unique(pairs.similarity, return_inverse=True)
    weights = np.bincount(inverse, pairs.weights())
    shares = np.bincount(inverse, pairs.weights() * pairs.same) / weights
    fitted = isotonic_regression(shares, weights=weights)
    starts, ends = fitted.blocks[:-1], fitted.blocks[1:] - 1
    sides = np.unique(np.concatenate([starts, ends]))  # of each block, on which it is constant
    surest = 1 / (pairs.same.sum() + 2)
    return knots[sides], logit(fitted.x[sides].clip(surest, 1 - surest))


Fit = Callable[[Pairs], tuple[Floats, Floats]]  # to knots and the log-odds there
METHODS: Mapping[Literal["logistic", "isotonic"], Fit] = {
    "logistic": logistic,
    "isotonic": isotonic,
}


def _error(folds: list[Pairs], fits: list[tuple[Floats, Floats]]) -> float:
    """The mean of the folds' expected calibration errors, each by its knots and their log-odds."""
    found = [
        expected_calibration_error(expit(np.interp(fold.similarity, *fit)), fold.same, fold.weights())
        for fold, fit in zip(folds, fits, strict=True)
    ]
    return float(np.mean(found))


def _accepted(
    name: str, rate: float, limit: float, pairs: Pairs, persons: npt.NDArray[np.integer], seed: int
) -> dict[str, float]:
    """The share of the pairs of one person above a threshold, in percent, with its interval."""
    hits = pairs.similarity[pairs.same] > limit
    ends = interval(hits, persons[pairs.query[pairs.same]], seed)
    values = {"": float(hits.mean()), "_low": ends[0], "_high": ends[1]}
    return {f"{name}.tpr_at_{_power(rate)}{end}": 100 * value for end, value in values.items()}


def _power(rate: float) -> str:
    return f"1e-{round(-np.log10(rate))}"


def _two_folds(
    query: Embeddings, gallery: Embeddings, factors: npt.NDArray[np.integer], seed: int
) -> list[tuple[Embeddings, Embeddings, npt.NDArray[np.integer]]]:
    """Halves of the queries' persons, each with its gallery images and half of those of nobody else.

    With the factors of its queries.
    """
    persons = np.unique(query.person_ids)
    half = named_generator("folds", seed).permutation(persons)[: len(persons) // 2]
    other = ~np.isin(gallery.person_ids, persons) | (gallery.person_ids == DISTRACTOR)
    second = np.arange(len(gallery.person_ids)) % 2 == 1
    in_half = np.where(other, second, np.isin(gallery.person_ids, half))
    of_query = np.isin(query.person_ids, half)
    return [
        (query.select(of_query == side), gallery.select(in_half == side), factors[of_query == side])
        for side in (True, False)
    ]


def _supported(rates: tuple[float, ...], negatives: int) -> list[float]:
    return [rate for rate in rates if rate * negatives >= PAIRS_PER_RATE]
