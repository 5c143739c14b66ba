"""CMC, mAP and mINP of queries against a gallery, without an order of the gallery.

All three metrics follow from the ranks of the positives, and a rank is a count: how many images are at
least as near. Memory is O(chunk x gallery) whatever the number of queries.

The protocol is Market-1501's: gallery images of the query's person by the query's camera are left out for
that query, and a query is valid if a positive is left. Distractors (person id -1: nobody's image) can come
before a positive in the whole gallery, but none is in a single-shot one. Junk must not be in the gallery.

Ties are decided against the model: an image of somebody else as near as a positive ranks before it, so a
collapsed model scores nothing. As near is within ``TIE``: a matrix product rounds the same dot product
differently in different blocks. Positives tied with each other count one after another.

Percent everywhere: 0 to 100.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch

from dgrl.errors import InputError
from dgrl.evaluation.single_shot import Chances, Floats, Integers, Row, chances_ahead, expected_cmc, hopeless
from dgrl.parallel.processes import usable_cores

DISTRACTOR = -1  # person id of gallery images that show nobody of interest
TIE = 1e-6  # cosine similarity; a few times float32's rounding of a dot product of unit vectors
THREADS = 4  # at most: each holds a chunk
CHUNK_CELLS = 1 << 24  # numbers in an array, at most

Mask = npt.NDArray[np.bool_]
Similarity = Callable[[slice], npt.NDArray[np.floating] | torch.Tensor]  # rows of queries -> [rows, G]


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """The features of N images and who and where they show.

    Args:
        features: [N, D] float32 or float64, each row L2-normalised.
        person_ids: [N] integers, one code per person, the same codes for query and gallery; -1 in the
            gallery is a distractor.
        camera_ids: [N] integers, one code per camera, the same codes for query and gallery.
    """

    features: npt.NDArray[np.floating]
    person_ids: Integers
    camera_ids: Integers

    def select(self, chosen: Mask | Integers | list[int]) -> "Embeddings":
        """Some of the images only: a mask [N], or row numbers."""
        return Embeddings(self.features[chosen], self.person_ids[chosen], self.camera_ids[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """What ``rank`` found for Q queries, query by query; the properties are means over the valid ones.

    Args:
        valid: [Q] bool, whether the gallery holds a positive for the query. Elsewhere NaN, or rank 0.
        single_shot: [Q, K] float64 percent, the chance of a rank within k = 1..K in a single-shot gallery.
        best_rank: [Q] int64, the rank of the nearest positive in the whole gallery, from 1.
        average_precision: [Q] float64 percent.
        inverse_penalty: [Q] float64 percent, positives over the rank of the hardest one (INP).

    Raises:
        InputError: if no query is valid.
    """

    valid: Mask
    single_shot: Floats
    best_rank: Integers
    average_precision: Floats
    inverse_penalty: Floats

    def __post_init__(self) -> None:
        if not self.valid.any():
            raise InputError(
                f"none of {len(self.valid)} queries has a gallery image of its person by another camera; "
                "at least one must: check person_id and camera_id of the query and gallery tables"
            )

    @property
    def single_shot_cmc(self) -> Floats:
        """[K] percent of queries found within the first k, expected over all single-shot galleries."""
        return np.asarray(self.single_shot[self.valid].mean(axis=0))

    @property
    def cmc(self) -> Floats:
        """[K] percent of queries with any positive within the first k of the whole gallery (multi-shot)."""
        k = np.arange(1, self.single_shot.shape[1] + 1)
        return np.asarray(100 * (self.best_rank[self.valid, None] <= k).mean(axis=0))

    @property
    def mean_ap(self) -> float:
        """mAP in percent."""
        return float(self.average_precision[self.valid].mean())

    @property
    def mean_inp(self) -> float:
        """mINP in percent (Ye et al., "Deep Learning for Person Re-identification", TPAMI 2021)."""
        return float(self.inverse_penalty[self.valid].mean())

    def select(self, chosen: Mask) -> "Ranking":
        """Some of the queries only, ``chosen`` [Q] bool; an InputError if none of them is valid."""
        return Ranking(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def metrics(self, ranks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        """The metrics to report: ``rank1`` ... are single-shot, as the paper's; the rest is multi-shot.

        Returns:
            ``rank<k>``, ``mAP``, ``mINP``, ``multi_shot.rank<k>`` in percent; ``queries`` valid.

        Raises:
            InputError: if a rank is not one of 1..K.
        """
        length = self.single_shot.shape[1]
        if wrong := [k for k in ranks if not 1 <= k <= length]:
            raise InputError(f"Rank-{wrong[0]} is beyond the CMC; ask for ranks from 1 to {length}")
        single_shot, multi_shot = self.single_shot_cmc, self.cmc
        return {
            **{f"rank{k}": float(single_shot[k - 1]) for k in ranks},
            "mAP": self.mean_ap,
            "mINP": self.mean_inp,
            **{f"multi_shot.rank{k}": float(multi_shot[k - 1]) for k in ranks},
            "queries": int(self.valid.sum()),
        }


def rank(
    query: Embeddings,
    gallery: Embeddings,
    *,
    similarity: Similarity | None = None,
    cmc_length: int = 20,
    chunk: int = 256,
    tie: float = TIE,
) -> Ranking:
    """Rank the gallery for every query.

    AP is the mean over positives of (positives so far) / rank, as in Market-1501's Python evaluations.

    Args:
        query: Q images.
        gallery: G images, at most 2^24.
        similarity: of some queries to the whole gallery, finite, float32 or float64, called in several
            threads; by default the dot products of the features, in double precision if either's are.
        cmc_length: K, the length of the CMC curves.
        chunk: queries at a time in each of up to ``THREADS`` threads, or as many as keep chunk x gallery and
            chunk x positives x persons within ``CHUNK_CELLS``.
        tie: an image of somebody else ranks before a positive that is more similar by no more than this; 0
            takes the similarities as they come.

    Raises:
        InputError: if features and ids do not fit together, are empty, not finite or not L2-normalised, if
            a similarity is not finite, if an option is out of range, or if no query is valid.
    """
    _check_pair(query, gallery)
    if not (cmc_length > 0 and chunk > 0 and tie >= 0):
        raise InputError(f"cmc_length = {cmc_length}, chunk = {chunk}, tie = {tie}; give at least 1, 1 and 0")
    dtype = np.result_type(query.features, gallery.features, np.float32)
    left, right = (torch.from_numpy(side.features.astype(dtype, copy=False)) for side in (query, gallery))
    similarity = similarity or (lambda rows: left[rows] @ right.T)
    ids, persons, counts = np.unique(gallery.person_ids, return_inverse=True, return_counts=True)
    by_person = np.split(np.argsort(persons, kind="stable"), counts.cumsum()[:-1])
    images = dict(zip(ids.tolist(), by_person, strict=True))
    sizes = np.where(ids == DISTRACTOR, np.inf, counts)
    # The products of these with what is ahead: images; persons in a single-shot gallery, in the mean
    weights = torch.from_numpy(np.stack([np.ones(len(persons)), 1 / sizes[persons]])).float().T
    limit = hopeless(cmc_length)
    most = counts[ids != DISTRACTOR].max(initial=1)
    chunk = max(1, min(chunk, CHUNK_CELLS // int(max(len(persons), most * len(ids)))))

    def rank_query(row: Row, person: int, camera: int) -> tuple[int, int, float, float, Chances]:
        own = images.get(person, np.empty(0, np.int64))
        thresholds = np.sort(row[own[gallery.camera_ids[own] != camera]])[::-1] - tie
        others = row.copy()
        others[own] = -np.inf
        count = len(thresholds)
        if not count:
            return 0, 0, np.nan, np.nan, chances_ahead(others, thresholds, persons, sizes)
        parts = (others >= thresholds[i : i + chunk, None] for i in range(0, count, chunk))
        ahead = torch.cat([torch.from_numpy(part.astype(np.float32)) @ weights for part in parts])
        ahead_images, ahead_persons = ahead.numpy().T
        found = np.arange(1, count + 1)
        precision = 100 * found / (found + ahead_images)
        hopeful = thresholds[: np.count_nonzero(ahead_persons < limit)]
        chances = chances_ahead(others, hopeful, persons, sizes)
        return count, 1 + int(ahead_images[0]), precision.mean(), precision[-1], chances

    def rank_chunk(start: int) -> tuple[npt.NDArray[np.generic], ...]:
        rows = slice(start, start + chunk)
        similarities = torch.as_tensor(similarity(rows)).cpu().numpy()
        if not (finite := np.isfinite(similarities).all(axis=1)).all():
            row = start + int(np.argmin(finite))
            raise InputError(f"similarities of query {row} hold NaN or infinity; all must be finite")
        shown = query.person_ids[rows].tolist(), query.camera_ids[rows].tolist()
        *metrics, chances = zip(*map(rank_query, similarities, *shown), strict=True)
        positives, *multi_shot = map(np.array, metrics)
        return positives > 0, expected_cmc(chances, positives, cmc_length), *multi_shot

    # Chunks side by side, one thread each: threads that share small operators wait for each other.
    threads = min(THREADS, usable_cores())
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        parts = pool.map(rank_chunk, range(0, len(query.features), chunk))
        return Ranking(*map(np.concatenate, zip(*parts, strict=True)))


def nearest(query: Embeddings, gallery: Embeddings, *, count: int = 5) -> list[Integers]:
    """The gallery rows nearest to each query, nearest first, without those of its person by its camera.

    Returns:
        For each query up to ``count`` row numbers of ``gallery``.

    Raises:
        InputError: as ``rank``, but a query needs no positive.
    """
    _check_pair(query, gallery)
    found = []
    for feature, person, camera in zip(query.features, query.person_ids, query.camera_ids, strict=True):
        kept = np.flatnonzero((gallery.person_ids != person) | (gallery.camera_ids != camera))
        found.append(kept[np.argsort(-(gallery.features @ feature)[kept], kind="stable")[:count]])
    return found


def _check_pair(query: Embeddings, gallery: Embeddings) -> None:
    _check("query", query)
    _check("gallery", gallery)
    if (query.person_ids == DISTRACTOR).any():
        raise InputError("query person_ids hold -1, a distractor; a query must show a person: drop it")
    if query.features.shape[1] != gallery.features.shape[1]:
        raise InputError(
            f"query features have {query.features.shape[1]} dimensions, gallery features "
            f"{gallery.features.shape[1]}; they must be equal: extract both with the same model"
        )


def _check(name: str, embeddings: Embeddings) -> None:
    features = embeddings.features
    if features.ndim != 2 or not features.size:
        raise InputError(f"{name} features have shape {features.shape}; give [N, D] with at least one image")
    for column in ("person_ids", "camera_ids"):
        if (shape := getattr(embeddings, column).shape) != features.shape[:1]:
            raise InputError(f"{name} {column} have shape {shape}; give one per image: {features.shape[:1]}")
    norms = np.sqrt(np.einsum("nd,nd->n", features, features))
    if not np.isfinite(norms).all():
        row = int(np.argmin(np.isfinite(norms)))
        raise InputError(f"{name} features hold NaN or infinity in row {row}; check the model")
    worst = int(np.argmax(np.abs(norms - 1)))
    if abs(norms[worst] - 1) > 1e-2:
        raise InputError(f"{name} features have norm {norms[worst]:.3g} in row {worst}; L2-normalise them")
