"""The single-shot CMC: its exact expectation over all galleries with one image per person (paper IV-B).

In such a gallery another person is ahead of a positive with the chance that an image that is ahead is drawn:
the share of such images among the person's. Persons are drawn independently, so the number of persons ahead
is Poisson-binomial, and the rank is one more.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import gammainccinv

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

NEGLIGIBLE = 1e-12  # a chance that is as good as none


def hopeless(length: int) -> float:
    """With as many persons ahead in the mean, the chance of a rank up to ``length`` is negligible.

    Among all Poisson-binomial numbers with this mean, Poisson's own is the most often small (Hoeffding 1956).
    """
    return float(gammainccinv(length, NEGLIGIBLE))


def chances_ahead(
    row: npt.NDArray[np.floating], thresholds: npt.NDArray[np.floating], persons: Integers, sizes: Floats
) -> tuple[Floats, Integers]:
    """The chances of other persons to be ahead of the positives of a query, without those that are 0.

    Args:
        row: [G] similarities, minus infinity where an image is of the query's person.
        thresholds: [H], from the nearest positive to the farthest; an image at least as similar is ahead.
        persons: [G], whom the images show: 0..J-1.
        sizes: [J], how many images the persons have; infinity for who is never drawn.

    Returns:
        The chances, positive by positive, and how many each positive has, [H].
    """
    if not thresholds.size:
        return np.empty(0), np.empty(0, np.int64)
    candidates = np.flatnonzero(row >= thresholds[-1])
    first = len(thresholds) - np.searchsorted(thresholds[::-1], row[candidates], side="right")
    cells = first * len(sizes) + persons[candidates]  # a person, and the nearest positive that is behind
    images = np.bincount(cells, minlength=thresholds.size * sizes.size).reshape(-1, len(sizes))
    chances = images.cumsum(axis=0) / sizes
    some = chances > 0
    return chances[some], some.sum(axis=1)


def within(chances: Floats, counts: Integers, length: int) -> Floats:
    """P(rank <= k) of H positives, for k = 1..length.

    The distribution of the number of persons ahead is built one person at a time, for all positives at once,
    and cut off at ``length``: what falls off the end never comes back.

    Args:
        chances: of other persons to be ahead, positive by positive.
        counts: [H], how many each positive has.

    Returns:
        [H, length] float64.
    """
    order = np.argsort(-counts, kind="stable")  # one person more is there for ever fewer positives
    starts = (counts.cumsum() - counts)[order]
    left = len(counts) - np.bincount(counts, minlength=1).cumsum()
    ahead = np.zeros((length + 1, len(counts)))  # nothing, then P(0 persons), P(1 person), ...
    ahead[1] = 1
    for turn, positives in enumerate(left[:-1]):
        before, here = ahead[:-1, :positives], ahead[1:, :positives]
        here += chances[starts[:positives] + turn] * (before - here)
    found = np.empty((len(counts), length))
    found[order] = ahead[1:].cumsum(axis=0).T.clip(max=1)
    return found


def expected_cmc(found: Sequence[tuple[Floats, Integers]], positives: Integers, length: int) -> Floats:
    """The single-shot CMC of c queries: the mean of ``within`` over their positives.

    Args:
        found: of each query what ``chances_ahead`` returns; positives left out of it are worth nothing.
        positives: [c], how many each query has.

    Returns:
        [c, length] percent, NaN without positives.
    """
    chances, counts = (np.concatenate(part) for part in zip(*found, strict=True))
    total = np.zeros((len(found), length))
    np.add.at(
        total,
        np.repeat(np.arange(len(found)), [len(own) for _, own in found]),
        within(chances, counts, length),
    )
    return 100 * total / np.where(positives > 0, positives, np.nan)[:, None]
