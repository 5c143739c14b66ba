"""The single-shot CMC: its exact expectation over all galleries with one image per person (paper IV-B).

In such a gallery another person is ahead of a positive with a chance: the share of the person's images that
are ahead. Persons are drawn independently, so the number of persons ahead is Poisson-binomial.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import gammainccinv

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Row = npt.NDArray[np.floating]  # similarities of a query
Chances = tuple[Floats, Integers]  # what ``chances_ahead`` returns

NEGLIGIBLE = 1e-12  # a chance that is as good as none


def hopeless(length: int) -> float:
    """With as many persons ahead in the mean, the chance of a rank up to ``length`` is negligible.

    Among all Poisson-binomial numbers with this mean, Poisson's own is the most often small (Hoeffding 1956).
    """
    return float(gammainccinv(length, NEGLIGIBLE))


def chances_ahead(row: Row, thresholds: Row, persons: Integers, sizes: Floats) -> Chances:
    """The chances of other persons to be ahead of the positives of a query, without those that are 0.

    Args:
        row: [G] similarities, minus infinity where an image is of the query's person.
        thresholds: [H], from the nearest positive to the farthest; an image at least as similar is ahead.
        persons: [G], whom the images show: 0..J-1.
        sizes: [J], how many images the persons have; infinity for who is never drawn.

    Returns:
        The chances, positive by positive, and how many each positive has, [H].
    """
    candidates = np.flatnonzero(row >= thresholds.min(initial=np.inf))
    first = len(thresholds) - np.searchsorted(thresholds[::-1], row[candidates], side="right")
    cells = first * len(sizes) + persons[candidates]  # a person, and the nearest positive that is behind
    images = np.bincount(cells, minlength=thresholds.size * sizes.size).reshape(-1, len(sizes))
    chances = images.cumsum(axis=0) / sizes
    return chances[chances > 0], np.count_nonzero(chances, axis=1)


def expected_cmc(found: Sequence[Chances], positives: Integers, length: int) -> Floats:
    """The mean of P(rank <= k) over the positives of each of c queries, for k = 1..length.

    The distribution of the number of persons ahead is built one person at a time, for all positives at once,
    and cut off at ``length``: what falls off the end never comes back.

    Args:
        found: of each query what ``chances_ahead`` returns; positives left out of it are worth nothing.
        positives: [c], how many each query has.

    Returns:
        [c, length] percent, NaN without positives.
    """
    chances, counts = (np.concatenate(part) for part in zip(*found, strict=True))
    queries = np.repeat(np.arange(len(found)), [len(own) for _, own in found])
    order = np.argsort(-counts, kind="stable")  # one person more is there for ever fewer positives
    starts = (counts.cumsum() - counts)[order]
    left = len(counts) - np.bincount(counts, minlength=1).cumsum()
    ahead = np.zeros((length + 1, len(counts)))  # nothing, then P(0 persons), P(1 person), ...
    ahead[1] = 1
    for turn, some in enumerate(left[:-1]):
        before, here = ahead[:-1, :some], ahead[1:, :some]
        here += chances[starts[:some] + turn] * (before - here)
    total = np.zeros((len(found), length))
    np.add.at(total, queries[order], ahead[1:].cumsum(axis=0).T.clip(max=1))
    return 100 * total / np.where(positives > 0, positives, np.nan)[:, None]
