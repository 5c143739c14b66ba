"""Which queries the report shows."""

import numpy as np

from dgrl.evaluation.ranking import Ranking
from dgrl.random import named_generator


def choose_examples(ranking: Ranking, count: int, seed: int) -> dict[str, list[int]]:
    """A third of ``count`` are the worst queries, a third the best, and the rest is drawn from the others.

    A query is worse if the nearest image of its person has a higher rank, then if its AP is lower.

    Args:
        ranking: of the queries.
        count: how many to choose, as far as there are any.
        seed: of the random ones.

    Returns:
        Rows of the queries by ``worst``, ``best`` and ``random``.
    """
    valid = np.flatnonzero(ranking.valid)
    worst_first = valid[np.lexsort((ranking.average_precision[valid], -ranking.best_rank[valid]))]
    third = min(count, len(valid)) // 3
    worst, rest, best = np.split(worst_first, [third, len(valid) - third])
    drawn = named_generator("examples", seed).permutation(rest)[: count - 2 * third]
    rows = {"worst": worst, "best": best[::-1], "random": np.sort(drawn)}
    return {group: [int(row) for row in found] for group, found in rows.items()}
