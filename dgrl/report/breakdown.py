"""Metrics by factor and by camera pair, and how alike positives and negatives are."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from dgrl.evaluation.ranking import DISTRACTOR, Embeddings, Ranking, rank

PAIRS = 30  # camera pairs at most
BINS = 60  # of the histogram, at most
COLUMNS = ["rank1", "rank5", "rank10", "mAP"]
_CHUNK = 256  # queries at once
_FINE = 2000  # bins of -1 to 1, before the range that occurs is known

Names = npt.NDArray[np.object_]


def by_factor(ranking: Ranking, factors: npt.NDArray[np.integer]) -> pd.DataFrame:
    """Rows by factor: the number of valid queries and, in percent, ``COLUMNS``.

    Args:
        ranking: of Q queries.
        factors: the down-sampling factor of each [Q].
    """
    rows = {}
    for factor in sorted(set(factors[ranking.valid].tolist())):
        rows[f"x{factor}" if factor > 1 else "as it is"] = ranking.select(factors == factor).metrics()
    return pd.DataFrame.from_dict(rows, "index")[["queries", *COLUMNS]]


def by_camera_pair(
    query: Embeddings, gallery: Embeddings, query_cameras: Names, gallery_cameras: Names
) -> tuple[pd.DataFrame, int]:
    """Each query camera against the gallery of each other camera alone.

    Args:
        query: Q embeddings.
        gallery: G embeddings.
        query_cameras: their names [Q].
        gallery_cameras: likewise [G].

    Returns:
        Rows ``query camera to gallery camera`` of the ``PAIRS`` pairs with the most valid queries: the number
        of these, of gallery images, and ``COLUMNS`` in percent; and the number of all pairs.
    """
    pairs = []
    for left in sorted(set(query_cameras)):
        for right in sorted(set(gallery_cameras) - {left}):
            rows, columns = query_cameras == left, gallery_cameras == right
            persons = set(gallery.person_ids[columns]) - {DISTRACTOR}
            if count := int(np.isin(query.person_ids[rows], list(persons)).sum()):
                pairs.append((-count, f"{left} to {right}", rows, columns))
    pairs.sort(key=lambda pair: pair[0])
    found = {}
    for _, name, rows, columns in pairs[:PAIRS]:
        metrics = rank(query.select(rows), gallery.select(columns)).metrics()
        found[name] = {"queries": metrics["queries"], "gallery": int(columns.sum()), **metrics}
    return pd.DataFrame.from_dict(found, "index")[["queries", "gallery", *COLUMNS]], len(pairs)


def similarities(query: Embeddings, gallery: Embeddings) -> pd.DataFrame:
    """Histogram of cosine similarities, over the range that occurs.

    Returns:
        Columns ``similarity`` (the lower edge of a bin), ``positives`` (the query's person by another camera)
        and ``negatives`` (anybody else), in percent of each.
    """
    edges = np.linspace(-1, 1, _FINE + 1)
    counts = np.zeros((2, _FINE), np.int64)
    for start in range(0, len(query.features), _CHUNK):
        rows = slice(start, start + _CHUNK)
        values = np.clip(query.features[rows] @ gallery.features.T, -1, 1)
        same = query.person_ids[rows, None] == gallery.person_ids
        other = query.camera_ids[rows, None] != gallery.camera_ids
        counts[0] += np.histogram(values[same & other], edges)[0]
        counts[1] += np.histogram(values[~same], edges)[0]
    first, last = np.flatnonzero(counts.any(axis=0))[[0, -1]]
    step = -(-(last + 1 - first) // BINS)
    merged = np.add.reduceat(counts, np.arange(first, last + 1, step), axis=1)
    merged = np.pad(merged, ((0, 0), (1, 1)))  # an empty bin at each end
    lower = -1 + 2 / _FINE * (first + step * np.arange(-1, merged.shape[1] - 1))
    positives, negatives = 100 * merged / np.maximum(merged.sum(axis=1, keepdims=True), 1)
    return pd.DataFrame({"similarity": lower, "positives": positives, "negatives": negatives})
