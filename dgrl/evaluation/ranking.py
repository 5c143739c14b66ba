"""CMC, mAP and mINP of queries against a gallery, without an order of the gallery.

All three metrics follow from the ranks of the positives, and a rank is a count: how many images are at
least as near. So each query needs the values of one row of similarities in order, not the images they belong
to, and the single-shot CMC a table of the persons near it. Memory stays O(chunk x gallery) whatever the
number of queries. It runs on a CPU or a GPU.

The protocol is Market-1501's: gallery images of the query's person by the query's camera are left out for
that query, and a query without any positive left is not counted. Distractors (person id -1: nobody's
image) can come before a positive in the whole gallery, but a single-shot gallery has one image per
person and so none of them. Junk rows must not be in the gallery.

Ties are decided against the model: an image of somebody else exactly as near as a positive ranks before
it, so a collapsed model scores nothing. "Exactly" is within ``TIE``, unless another tolerance is asked for,
because a matrix product rounds the same dot product differently in different blocks. Positives tied with each
other count one after another.

Percent everywhere: 0 to 100.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dgrl.errors import InputError
from dgrl.parallel.device import default_device
from dgrl.parallel.processes import usable_cores
from dgrl.random import named_generator

DISTRACTOR = -1  # person id of gallery images that show nobody of interest
TIE = 1e-6  # cosine similarity; a few times float32's rounding of a dot product of unit vectors
THREADS = 4  # of a CPU, at most: each holds a chunk
CHUNK_CELLS = 1 << 24  # numbers in an array, at most: 128 MiB in double precision
BLOCK_CELLS = 1 << 19  # the same where a CPU's cache should hold them
RIVALS = 2048  # images that the single-shot CMC looks at before it asks for more

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Similarity = Callable[[slice], npt.NDArray[np.float32] | torch.Tensor]  # rows of queries -> [rows, G]


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """The features of N images and who and where they show.

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
        """The same metrics for some of the queries only, such as those of one factor.

        Args:
            chosen: [Q] bool.

        Raises:
            InputError: if none of them is counted.
        """
        return Ranking(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def metrics(self, ranks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        """The metrics to report: ``rank1`` ... are single-shot, as the paper's; the rest is multi-shot.

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
    tie: float = TIE,
    device: torch.device | None = None,
) -> Ranking:
    """Rank the gallery for every query.

    AP is the mean over positives of (positives so far) / rank, as in Market-1501's Python evaluations.
    Single-shot (paper IV-B: one image per person, averaged over draws) is the exact expectation over draws.

    Args:
        query: Q images.
        gallery: G images.
        similarity: of some queries to the whole gallery, called in several threads; by default that of the
            features.
        cmc_length: K, the length of the CMC curves.
        chunk: queries at a time, in each of up to ``THREADS`` threads, or as many as keep chunk x gallery and
            chunk x positives x persons within ``CHUNK_CELLS``.
        tie: an image of somebody else ranks before a positive that is more similar by no more than this; 0
            takes the similarities as they come.
        device: where to compute; by default the GPU if there is one.

    Raises:
        InputError: if features and ids do not fit together, are empty, not finite or not L2-normalised, if
            ``tie`` is negative, or if no query has a positive.
    """
    _check_pair(query, gallery)
    _check_positive(cmc_length=cmc_length, chunk=chunk)
    if not tie >= 0:
        raise InputError(f"tie = {tie}; give 0 or more")
    device = device or default_device()
    similarity = similarity or _cosine(query, gallery, device)
    people = _People(gallery)
    persons = torch.tensor(people.persons, device=device)
    sizes = torch.tensor(np.where(people.ids == DISTRACTOR, np.inf, people.sizes), device=device)
    most = int(people.sizes[people.ids != DISTRACTOR].max(initial=1))
    chunk = max(1, min(chunk, CHUNK_CELLS // max(len(persons), most * len(sizes))))
    count = len(query.features)
    counted = np.zeros(count, dtype=bool)
    single_shot = np.full((count, cmc_length), np.nan)
    best_rank = np.zeros(count, dtype=np.int64)
    average_precision, inverse_penalty = np.full(count, np.nan), np.full(count, np.nan)

    def rank_rows(start: int) -> None:
        rows = slice(start, start + chunk)
        positives = people.positives(query.person_ids[rows], query.camera_ids[rows])
        if not positives.rows.size:
            return
        similarities = torch.as_tensor(similarity(rows), device=device)
        metrics = _rank_chunk(similarities, positives, persons, sizes, cmc_length, tie)
        found = start + positives.rows
        counted[found] = True
        best_rank[found], average_precision[found], inverse_penalty[found], single_shot[found] = metrics

    # Chunks side by side, one thread each: threads that share small operators wait for each other.
    threads = 1 if device.type == "cuda" else min(THREADS, usable_cores())
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        deque(pool.map(rank_rows, range(0, count, chunk)), maxlen=0)
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
        query: Q images.
        gallery: G images.
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
    positives = people.positives(query.person_ids, query.camera_ids)
    counted = np.zeros(len(query.features), dtype=bool)
    counted[positives.rows] = True
    _check_counted(counted)
    own = positives.own
    features = query.features[positives.rows]
    curves = np.empty((draws, cmc_length))
    for draw in range(draws):
        where = named_generator("single_shot", seed, draw).random(len(people.sizes))  # [J]
        chosen = (where[own] * positives.counts).astype(np.int64)
        true = positives.columns[np.arange(len(own)), chosen]
        places = people.first + (where * people.sizes).astype(np.int64)
        drawn = gallery.features[people.order[places]]  # [J, D]
        drawn[people.ids == DISTRACTOR] = np.nan  # nearer than nothing
        ranks = _drawn_ranks(features, gallery.features[true], drawn, own, chunk)
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


@dataclass(frozen=True, slots=True, eq=False)
class _Positives:
    """Where c queries that have positives find them, those with most first.

    ``rows`` [c] are the queries and ``own`` [c] their persons; ``columns`` [c, P] has the person's images by
    other cameras, ``counts`` [c] many, and then the others of the person, some more than once.
    """

    rows: Integers
    own: Integers
    columns: Integers
    counts: Integers


class _People:
    """The persons 0..J-1 of the gallery.

    ``persons`` [G] says who each image shows and ``order`` [G] has the images person by person; ``ids``,
    ``first`` (place of the first image in ``order``) and ``sizes`` (number of images) are [J].
    """

    def __init__(self, gallery: Embeddings) -> None:
        self.camera_ids = gallery.camera_ids
        self.order = np.argsort(gallery.person_ids, kind="stable")
        self.ids, self.persons, self.sizes = np.unique(
            gallery.person_ids, return_inverse=True, return_counts=True
        )
        self.first = np.cumsum(self.sizes) - self.sizes

    def positives(self, person_ids: Integers, camera_ids: Integers) -> _Positives:
        """Of the queries that show these persons by these cameras: [q] each."""
        own = np.searchsorted(self.ids, person_ids).clip(max=len(self.ids) - 1)
        images = np.where(self.ids[own] == person_ids, self.sizes[own], 0)
        place = np.arange(images.max())
        columns = self.order[self.first[own, None] + np.minimum(place, self.sizes[own, None] - 1)]
        positive = (place < images[:, None]) & (self.camera_ids[columns] != camera_ids[:, None])
        counts = positive.sum(axis=1)
        rows = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
        front = np.argsort(~positive[rows], axis=1, kind="stable")
        return _Positives(rows, own[rows], np.take_along_axis(columns[rows], front, axis=1), counts[rows])


def _cosine(query: Embeddings, gallery: Embeddings, device: torch.device) -> Similarity:
    queries, features = (torch.from_numpy(side.features) for side in (query, gallery))
    features = features.to(device)
    return lambda rows: queries[rows].to(device) @ features.T


def _rank_chunk(
    similarities: torch.Tensor,
    positives: _Positives,
    persons: torch.Tensor,
    sizes: torch.Tensor,
    length: int,
    tie: float,
) -> tuple[Integers, Floats, Floats, Floats]:
    """Best rank, AP, INP and single-shot CMC of the queries that have positives.

    Args:
        similarities: [q, G].
        positives: of c <= q queries.
        persons: [G] int64, whom the images show: 0..J-1.
        sizes: [J] float64, the images that are drawn from; infinity where none is drawn.
        length: K.
        tie: as in ``rank``.

    Returns:
        [c], [c] and [c], in the order of ``positives``, and [c, K].
    """
    device = similarities.device
    rows, columns, counts = (
        torch.from_numpy(values).to(device)
        for values in (positives.rows, positives.columns, positives.counts)
    )
    weights = 1 / sizes[persons]
    parts = []
    for block in _blocks(positives.counts, len(persons), len(sizes), device):
        distances = similarities.index_select(0, rows[block]).neg_()
        bars = _bars(distances, columns[block], counts[block]) + tie
        distances.scatter_(1, columns[block], torch.inf)  # what is left are the images of others
        ordered = _ordered(distances)
        ranks = _multi_shot(torch.searchsorted(ordered, bars, right=True), counts[block])
        farthest = bars.gather(1, counts[block, None] - 1)
        rivals = _rivals(distances, ordered, farthest, weights, length)
        hopeful, chances, others = _chances(distances, bars, rivals, persons, sizes, length)
        parts.append((*ranks, block.start + hopeful, chances, others))
    best_rank, average_precision, inverse_penalty, hopeful, chances, others = (
        torch.cat(part) for part in zip(*parts, strict=True)
    )
    within = chances.new_zeros(len(rows), length)
    within.index_add_(0, hopeful, _within(chances, others, length))
    return (
        best_rank.to(torch.int64).cpu().numpy(),
        _percent(average_precision),
        _percent(inverse_penalty),
        _percent(within / counts[:, None]),
    )


def _percent(share: torch.Tensor) -> Floats:
    return np.asarray(100 * share.cpu().numpy())


def _blocks(counts: Integers, gallery: int, persons: int, device: torch.device) -> Iterator[slice]:
    """Queries to count for at a time. They have about equally many positives, so that little is padded."""
    cells = BLOCK_CELLS if device.type == "cpu" else CHUNK_CELLS
    start = 0
    while start < len(counts):
        stop = start + max(1, cells // max(gallery, (int(counts[start]) + 1) * persons))
        yield slice(start, stop)
        start = stop


def _bars(distances: torch.Tensor, columns: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Distances of the positives, nearest first, then infinity: [q, P]."""
    places = torch.arange(int(counts[0]), device=counts.device)
    found = distances.gather(1, columns[:, : len(places)])
    return found.masked_fill_(places >= counts[:, None], torch.inf).sort(dim=1).values


def _ordered(distances: torch.Tensor) -> torch.Tensor:
    """Each row from near to far: [q, G]."""
    if distances.is_cuda:
        return distances.sort(dim=1).values
    return torch.from_numpy(np.sort(distances.numpy(), axis=1))  # in vectors; torch's sorts the places too


def _multi_shot(others: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Best rank, AP and INP, [q] float64 each, from how many images of others are ahead of each positive."""
    so_far = torch.arange(1, others.shape[1] + 1, device=others.device)
    ranks = (so_far + others).double()
    precision = so_far / ranks * (so_far <= counts[:, None])
    hardest = precision.gather(1, counts[:, None] - 1)
    return ranks[:, 0], precision.sum(dim=1) / counts, hardest[:, 0]


class _Rivals(NamedTuple):
    """Images of others, all that are no farther than a limit, beyond which no positive is hopeful."""

    rows: torch.Tensor  # [C] int64, their queries
    columns: torch.Tensor  # [C] int64
    limit: torch.Tensor  # [q, 1]


def _rivals(
    distances: torch.Tensor,
    ordered: torch.Tensor,
    farthest: torch.Tensor,
    weights: torch.Tensor,
    length: int,
) -> _Rivals:
    """As many of the nearest images as it takes.

    Args:
        distances: those of the images of others, elsewhere infinity, [q, G].
        ordered: the same, row by row from near to far.
        farthest: the last bar of each query, [q, 1].
        weights: what an image adds to the mean number of persons ahead in a single-shot gallery, [G] float64.
        length: K.
    """
    count = RIVALS
    while True:
        limit = torch.minimum(farthest, ordered[:, min(count, ordered.shape[1]) - 1, None])
        rows, columns = (distances <= limit).nonzero(as_tuple=True)
        mean = torch.bincount(rows, weights[columns], minlength=len(limit))
        if not (_hopeful(mean, length) & (limit < farthest)[:, 0]).any():
            return _Rivals(rows, columns, limit)
        count *= 2


def _chances(
    distances: torch.Tensor,
    bars: torch.Tensor,
    rivals: _Rivals,
    persons: torch.Tensor,
    sizes: torch.Tensor,
    length: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The chances of other persons to come before each hopeful positive.

    Returns:
        The query of each of these positives, [H]; the chances, positive by positive; how many of them each
        positive has, [H].
    """
    queries, people = len(bars), len(sizes)
    known = bars <= rivals.limit
    width = int(known.sum(dim=1).max())
    bars, known = bars[:, :width].contiguous(), known[:, :width]
    rows, columns, _ = rivals
    each = torch.split(distances[rows, columns], torch.bincount(rows, minlength=queries).tolist())
    nearer_bars = torch.cat([torch.searchsorted(row, its) for row, its in zip(bars, each, strict=True)])
    # Each query meets few of all persons: U pairs of both
    meetings = rows * people + persons[columns]
    met = torch.zeros(queries * people, dtype=torch.bool, device=bars.device)
    met[meetings] = True
    places = nearer_bars * int(met.sum()) + (met.cumsum(dim=0) - 1)[meetings]
    query, person = met.view(queries, people).nonzero(as_tuple=True)
    images = torch.bincount(places, minlength=(width + 1) * len(query)).view(width + 1, -1)
    chances = images[:width].cumsum(dim=0) / sizes[person]  # [width, U]
    mean = chances.new_zeros(width, queries).index_add_(1, query, chances)
    hopeful = _hopeful(mean, length) & known.T
    some = (chances > 0) & hopeful[:, query]
    others = chances.new_zeros(width, queries).index_add_(1, query, some.double())
    return hopeful.nonzero()[:, 1], chances[some], others[hopeful].long()


def _hopeful(mean: torch.Tensor, length: int) -> torch.Tensor:
    """Whether P(rank <= length) may be above double precision, if so many persons are ahead in the mean.

    It is not where Chernoff's bound exp(length - mean) (mean / length)^length, for mean >= length, is below.
    """
    mean = mean.clamp(min=length)
    return length - mean + length * torch.log(mean / length) > math.log(1e-16)


def _within(chances: torch.Tensor, others: torch.Tensor, length: int) -> torch.Tensor:
    """P(rank <= k), k = 1..length, where other persons come before with the given chances.

    The number of persons ahead is Poisson-binomial. Its distribution is built one person at a time, for all
    positives that have as many, and cut off at ``length``: what falls off the end never comes back.

    Args:
        chances: float64, positive by positive.
        others: [H] int64, how many of them each positive has.

    Returns:
        [H, length] float64.
    """
    device = chances.device
    order = others.argsort(descending=True)  # a person more is there for ever fewer positives
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=device)
    owner = torch.arange(len(others), device=device).repeat_interleave(others)
    turn = torch.arange(len(chances), device=device) - (others.cumsum(dim=0) - others)[owner]
    left = len(others) - torch.bincount(others, minlength=1).cumsum(dim=0)[:-1]  # positives at each turn
    table = chances.new_zeros((len(left), len(others)))
    table[turn, place[owner]] = chances
    ahead = chances.new_zeros((length + 1, len(others)))  # nothing, then P(0 persons), P(1 person), ...
    ahead[1] = 1
    for chance, rows in zip(table, left.tolist(), strict=True):
        ahead[1:, :rows] = torch.lerp(ahead[1:, :rows], ahead[:-1, :rows], chance[:rows])
    return ahead[1:].cumsum(dim=0).clamp_(max=1).T[place]


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
        raise InputError(f"{name} features have shape {features.shape}; give [N, D] with at least one image")
    for column in ("person_ids", "camera_ids"):
        if (shape := getattr(embeddings, column).shape) != features.shape[:1]:
            raise InputError(f"{name} {column} have shape {shape}; give one per image: {features.shape[:1]}")
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
