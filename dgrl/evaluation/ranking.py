"""CMC, mAP and mINP of queries against a gallery, without sorting the gallery.

All three figures follow from the ranks of the positives, and a rank is a count: how many images are at
least as near. So each query needs one row of similarities and one histogram, and memory stays
O(chunk x gallery) whatever the number of queries.

The protocol is Market-1501's: gallery images of the query's person by the query's camera are left out for
that query, and a query without any positive left is not counted. Distractors (person id -1: nobody's
picture) can come before a positive in the whole gallery, but a single-shot gallery has one picture per
person and so none of them. Junk rows must not be in the gallery.

Ties are decided against the model: an image of somebody else exactly as near as a positive ranks before
it, so a collapsed model scores nothing. "Exactly" is within ``TIE``, because a matrix product rounds the
same dot product differently in different blocks. Positives tied with each other count one after another.

Percent everywhere: 0 to 100.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from dgrl.errors import InputError
from dgrl.random import named_generator

DISTRACTOR = -1  # person id of gallery pictures that show nobody of interest
TIE = 1e-6  # cosine similarity; a few times float32's rounding of a dot product of unit vectors

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Similarity = Callable[[slice], npt.NDArray[np.float32]]  # rows of queries -> [rows, G]


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """The features of N pictures and who and where they show.

    Args:
        features: [N, D] float32, each row L2-normalised.
        person_ids: [N] integers, one code per person, the same codes for query and gallery; -1 in the
            gallery is a distractor.
        camera_ids: [N] integers, one code per camera, the same codes for query and gallery.
    """

    features: npt.NDArray[np.float32]
    person_ids: Integers
    camera_ids: Integers


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """What ``rank`` found for Q queries, query by query; the properties are means over the counted ones.

    Args:
        counted: [Q] bool, whether the gallery holds a positive for the query. Elsewhere NaN, or rank 0.
        single_shot: [Q, K] float64 percent, the chance that the person is within the first k = 1..K when
            the gallery has one image per person, over all draws of that gallery.
        best_rank: [Q] int64, the rank of the nearest positive in the whole gallery, from 1.
        average_precision: [Q] float64 percent.
        inverse_penalty: [Q] float64 percent, positives over the rank of the hardest one (INP).

    Raises:
        InputError: if no query is counted.
    """

    counted: Mask
    single_shot: Floats
    best_rank: Integers
    average_precision: Floats
    inverse_penalty: Floats

    def __post_init__(self) -> None:
        _check_counted(self.counted)

    @property
    def single_shot_cmc(self) -> Floats:
        """[K] percent of queries found within the first k, expected over all single-shot galleries."""
        return np.asarray(self.single_shot[self.counted].mean(axis=0))

    @property
    def cmc(self) -> Floats:
        """[K] percent of queries with any positive within the first k of the whole gallery (multi-shot)."""
        k = np.arange(1, self.single_shot.shape[1] + 1)
        return np.asarray(100 * (self.best_rank[self.counted, None] <= k).mean(axis=0))

    @property
    def mean_ap(self) -> float:
        """mAP in percent."""
        return float(self.average_precision[self.counted].mean())

    @property
    def mean_inp(self) -> float:
        """mINP in percent (Ye et al., "Deep Learning for Person Re-identification", TPAMI 2021)."""
        return float(self.inverse_penalty[self.counted].mean())

    def select(self, chosen: Mask) -> "Ranking":
        """The same figures for some of the queries only, such as those of one factor.

        Args:
            chosen: [Q] bool.

        Raises:
            InputError: if none of them is counted.
        """
        return Ranking(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def metrics(self, ranks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        """The figures to report: ``rank1`` ... are single-shot, as the paper's; the rest is multi-shot.

        Returns:
            ``rank<k>``, ``mAP``, ``mINP``, ``multi_shot.rank<k>`` in percent; ``queries`` counted.

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
            "queries": int(self.counted.sum()),
        }


def rank(
    query: Embeddings,
    gallery: Embeddings,
    *,
    similarity: Similarity | None = None,
    cmc_length: int = 20,
    chunk: int = 256,
) -> Ranking:
    """Rank the gallery for every query.

    AP is the mean over positives of (positives so far) / rank, as in Market-1501's Python evaluations.
    Single-shot (paper IV-B: one image per person, averaged over draws) is the exact expectation over draws.

    Args:
        query: Q pictures.
        gallery: G pictures.
        similarity: of some queries to the whole gallery; by default that of the features.
        cmc_length: K, the length of the CMC curves.
        chunk: queries at a time. Memory is O(chunk x (gallery + positives per query x persons)).

    Raises:
        InputError: if features and ids do not fit together, are empty, not finite or not L2-normalised, or
            if no query has a positive.
    """
    _check_pair(query, gallery)
    _check_positive(cmc_length=cmc_length, chunk=chunk)
    people = _People(gallery)
    draws = np.where(people.ids == DISTRACTOR, np.inf, people.sizes)  # no chance to be drawn
    count = len(query.features)
    counted = np.zeros(count, dtype=bool)
    single_shot = np.full((count, cmc_length), np.nan)
    best_rank = np.zeros(count, dtype=np.int64)
    average_precision, inverse_penalty = np.full(count, np.nan), np.full(count, np.nan)
    for start in range(0, count, chunk):
        ahead_of: dict[int, Integers] = {}
        for index, similarities in enumerate(_rows(query, people, start, chunk, similarity), start):
            own, positives = people.find(query.person_ids[index], query.camera_ids[index])
            if not positives.size:
                continue
            ahead = _images_ahead(similarities, own, positives, people)
            so_far = np.arange(1, len(ahead) + 1)
            ranks = so_far + ahead.sum(axis=1)
            best_rank[index] = ranks[0]
            average_precision[index] = 100 * (so_far / ranks).mean()
            inverse_penalty[index] = 100 * so_far[-1] / ranks[-1]
            ahead_of[index] = ahead
        if ahead_of:
            found = list(ahead_of)
            counted[found] = True
            single_shot[found] = 100 * _expected_cmc(list(ahead_of.values()), draws, cmc_length)
    return Ranking(counted, single_shot, best_rank, average_precision, inverse_penalty)


def single_shot_draws(
    query: Embeddings,
    gallery: Embeddings,
    *,
    draws: int,
    seed: int,
    cmc_length: int = 20,
    chunk: int = 256,
) -> tuple[Floats, Floats]:
    """Single-shot CMC over seeded draws of a gallery with one image per person, as papers report it.

    ``rank`` gives this mean's expectation in closed form. A draw is one number in [0, 1) per person, which
    points at one of the person's images, for a query of that person at one of those by other cameras.

    Args:
        query: Q pictures.
        gallery: G pictures.
        draws: how many galleries to draw.
        seed: names the draws, together with their number.
        cmc_length: K, the length of the CMC curves.
        chunk: queries at a time. Memory is O(chunk x persons).

    Returns:
        The mean and the (population) standard deviation over the draws, each [K] float64 percent.

    Raises:
        InputError: as ``rank``, or if ``draws`` is not positive.
    """
    _check_pair(query, gallery)
    _check_positive(draws=draws, cmc_length=cmc_length, chunk=chunk)
    people = _People(gallery)
    found = [people.find(*ids) for ids in zip(query.person_ids, query.camera_ids, strict=True)]
    counted = np.array([positives.size > 0 for _, positives in found])
    _check_counted(counted)
    own = np.array([person for person, positives in found if positives.size])
    choices = [positives for _, positives in found if positives.size]
    features = query.features[counted]
    curves = np.empty((draws, cmc_length))
    for draw in range(draws):
        where = named_generator("single_shot", seed, draw).random(len(people.sizes))  # [J]
        true = [columns[int(where[j] * len(columns))] for j, columns in zip(own, choices, strict=True)]
        drawn = people.features[people.first + (where * people.sizes).astype(np.int64)]  # [J, D]
        drawn[people.ids == DISTRACTOR] = np.nan  # nearer than nothing
        ranks = _drawn_ranks(features, people.features[true], drawn, own, chunk)
        curves[draw] = 100 * (ranks[:, None] <= np.arange(1, cmc_length + 1)).mean(axis=0)
    return curves.mean(axis=0), curves.std(axis=0)


def nearest(query: Embeddings, gallery: Embeddings, *, count: int = 5, chunk: int = 256) -> list[Integers]:
    """The gallery rows nearest to each query, nearest first, without those of its person by its camera.

    Returns:
        For each query up to ``count`` row numbers of ``gallery``.

    Raises:
        InputError: as ``rank``, but a query needs no positive.
    """
    _check_pair(query, gallery)
    _check_positive(count=count, chunk=chunk)
    found: list[Integers] = []
    for start in range(0, len(query.features), chunk):
        rows = slice(start, start + chunk)
        same_person = query.person_ids[rows, None] == gallery.person_ids
        left_out = same_person & (query.camera_ids[rows, None] == gallery.camera_ids)
        distances = np.where(left_out, np.inf, -(query.features[rows] @ gallery.features.T))  # [chunk, G]
        for row, kept in zip(distances, (~left_out).sum(axis=1), strict=True):
            found.append(np.argsort(row, kind="stable")[: min(count, kept)])
    return found


class _People:
    """The gallery in the order of its persons, so that a person's images are neighbours.

    ``order`` [G] has the rows of the gallery; ``features`` [G, D], ``camera_ids`` [G] and ``persons`` [G]
    (0..J-1) are in that order; ``ids``, ``first`` (column of the first image) and ``sizes`` (number of
    images) are [J].
    """

    def __init__(self, gallery: Embeddings) -> None:
        self.order = np.argsort(gallery.person_ids, kind="stable")
        self.features = gallery.features[self.order]
        self.camera_ids = gallery.camera_ids[self.order]
        self.ids, self.first, self.persons, self.sizes = np.unique(
            gallery.person_ids[self.order], return_index=True, return_inverse=True, return_counts=True
        )

    def find(self, person_id: np.int64, camera_id: np.int64) -> tuple[int, Integers]:
        """The person's place in ``ids`` and the columns of the person's images by other cameras."""
        person = int(np.searchsorted(self.ids, person_id))
        if person == len(self.ids) or self.ids[person] != person_id:
            return person, np.empty(0, dtype=np.int64)
        columns = np.arange(self.first[person], self.first[person] + self.sizes[person])
        return person, columns[self.camera_ids[columns] != camera_id]


def _rows(
    query: Embeddings, people: _People, start: int, chunk: int, similarity: Similarity | None
) -> npt.NDArray[np.float32]:
    """Similarities [chunk, G] of the queries of a chunk to the gallery in the order of its persons."""
    rows = slice(start, start + chunk)
    if similarity is not None:
        return similarity(rows)[:, people.order]
    return np.asarray(query.features[rows] @ people.features.T)


def _images_ahead(
    similarities: npt.NDArray[np.float32], own: int, positives: Integers, people: _People
) -> Integers:
    """How many images of each person are at least as near as each positive, nearest first: [P, J]."""
    bars = np.sort(similarities[positives])[::-1] - np.float32(TIE)  # [P]
    persons, size = len(people.ids), len(bars)
    narrow = np.min_scalar_type(size)  # a count in 0..P, summed several times faster than in 64 bits
    first_passed = (similarities < bars[:, None]).sum(axis=0, dtype=narrow)  # [G], passes it and all after
    cells = first_passed.astype(np.int64) * persons + people.persons
    ahead = np.bincount(cells, minlength=(size + 1) * persons)[: size * persons].reshape(size, persons)
    ahead[:, own] = 0  # the query's person: positives are counted by their order, the same camera not at all
    return ahead.cumsum(axis=0)


def _expected_cmc(ahead_of: list[Integers], sizes: Floats, length: int) -> Floats:
    """Expected single-shot CMC of queries, given ``_images_ahead`` of each: [queries, length] in 0..1."""
    positives = np.array([len(ahead) for ahead in ahead_of])
    within = _within(np.concatenate(ahead_of) / sizes, length)  # [all positives, length]
    starts = np.cumsum(positives) - positives
    return np.asarray(np.add.reduceat(within, starts, axis=0) / positives[:, None])


def _within(chances: Floats, length: int) -> Floats:
    """P(rank <= k), k = 1..length, where each person j is ahead with probability ``chances[:, j]``.

    The number of persons ahead is Poisson-binomial. Its distribution is built one person at a time and cut
    off at ``length``: what falls off the end never comes back. Positives with so many persons ahead that
    Chernoff's bound P(rank <= length) <= exp(length - mean) (mean / length)^length is below double
    precision are 0 without further ado.

    Args:
        chances: [M, J], for each positive the share of person j's images that are at least as near.

    Returns:
        [M, length].
    """
    mean = np.maximum(chances.sum(axis=1), length)  # the bound needs mean >= length, and is 1 there
    hopeful = length - mean + length * np.log(mean / length) > np.log(1e-16)
    ahead = np.zeros((hopeful.sum(), length))  # probability of 0..length-1 persons ahead
    ahead[:, 0] = 1
    for chance in np.ascontiguousarray(chances[hopeful].T):
        rows = np.flatnonzero(chance)
        moved = ahead[rows] * chance[rows, None]
        ahead[rows] -= moved
        ahead[rows, 1:] += moved[:, :-1]
    within = np.zeros((len(chances), length))
    within[hopeful] = np.minimum(ahead.cumsum(axis=1), 1)
    return within


def _drawn_ranks(
    query: npt.NDArray[np.float32],
    true: npt.NDArray[np.float32],
    drawn: npt.NDArray[np.float32],
    own: Integers,
    chunk: int,
) -> Integers:
    """Rank of each query's true image among the images drawn for the other persons.

    Args:
        query: [Q, D].
        true: [Q, D], the image drawn for the query's person.
        drawn: [J, D], the images drawn for all persons.
        own: [Q], the query's person, whose row of ``drawn`` does not compete.
    """
    bars = np.einsum("qd,qd->q", query, true) - np.float32(TIE)
    ranks = np.empty(len(query), dtype=np.int64)
    for start in range(0, len(query), chunk):
        rows = slice(start, start + chunk)
        ahead = query[rows] @ drawn.T >= bars[rows, None]  # [chunk, J]
        ahead[np.arange(len(ahead)), own[rows]] = False
        ranks[rows] = 1 + ahead.sum(axis=1)
    return ranks


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
        raise InputError(
            f"{name} features have shape {features.shape}; give [N, D] with at least one picture"
        )
    for column in ("person_ids", "camera_ids"):
        if (shape := getattr(embeddings, column).shape) != features.shape[:1]:
            raise InputError(
                f"{name} {column} have shape {shape}; give one per picture: {features.shape[:1]}"
            )
    norms = np.sqrt(np.einsum("nd,nd->n", features, features))
    if not np.isfinite(norms).all():
        row = int(np.argmin(np.isfinite(norms)))
        raise InputError(
            f"{name} features hold NaN or infinity in row {row}; all must be finite: check the model"
        )
    worst = int(np.argmax(np.abs(norms - 1)))
    if abs(norms[worst] - 1) > 1e-2:
        raise InputError(
            f"{name} features have norm {norms[worst]:.3g} in row {worst}; L2-normalise them to 1"
        )


def _check_counted(counted: Mask) -> None:
    if not counted.any():
        raise InputError(
            f"none of {len(counted)} queries has a gallery image of its person by another camera; "
            "at least one must: check person_id and camera_id of the query and gallery tables"
        )


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name} = {value}; give at least 1")
