"""k-reciprocal re-ranking: two images are near if they have the same neighbours.

Reference: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017;
github.com/zhunzhong07/person-re-ranking. Section and equation numbers are theirs.

No N x N matrix is ever held: neighbours are found chunk by chunk, and all that follows (neighbourhoods, their
expansion, the encoding) is sparse, a few dozen entries a row.

Images nearer than rounding have the distance 0; which of more than k1 equal ones are neighbours is arbitrary.
If all images are equal there are no neighbours to speak of: all similarities are 0, a tie of everything.
"""

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_array, csr_array

from dgrl.errors import InputError

K1, K2, LAMBDA = 20, 6, 0.3  # the paper's
ROUNDING = 1e-6  # of a squared distance: what is nearer is equal

Features = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class KReciprocal:
    """The re-ranked similarity of Q queries and G gallery images, any rows of it at a time.

    Args:
        query: [Q, D], rows of unit length.
        gallery: [G, D], likewise.
        k1: neighbours that are looked at (section 3.1).
        k2: neighbours that an encoding is averaged over (section 3.4).
        weight: lambda, the share of the original distance in the final one (equation 12).
        chunk: rows at a time. Memory is O(chunk x (Q + G)) and O((Q + G) x neighbours).

    Raises:
        InputError: if there are not more than ``k1`` images, or k2 is more than k1.
    """

    def __init__(
        self,
        query: Features,
        gallery: Features,
        *,
        k1: int = K1,
        k2: int = K2,
        weight: float = LAMBDA,
        chunk: int = 256,
    ) -> None:
        features = np.concatenate([query, gallery])
        if not np.isfinite(features).all():
            raise InputError("k-reciprocal re-ranking: the features hold NaN or infinity; check the model")
        if not 1 <= k2 <= k1 < len(features):
            raise InputError(
                f"k-reciprocal re-ranking: k1 = {k1}, k2 = {k2} with {len(features)} images; "
                "choose 1 <= k2 <= k1 < images, or rank without re-ranking"
            )
        neighbours, farthest = _neighbours(features, k1 + 1, chunk)
        self._all_equal = not farthest.any()
        farthest[farthest == 0] = 1
        encoding = _encode(_expanded(neighbours, k1), features, farthest)
        if k2 > 1:
            encoding = _members(neighbours[:, :k2]) @ encoding / k2  # local query expansion, eq. 11
        self._query, self._gallery, self._weight = query, gallery, weight
        self._farthest = farthest[: len(query)]
        self._rows: csr_array = encoding[: len(query)]
        self._columns: csc_array = encoding[len(query) :].tocsc()

    def __call__(self, rows: slice) -> Features:
        """Minus the final distance (eq. 12) of some queries to the whole gallery: [rows, G] float32."""
        if self._all_equal:
            return np.zeros((len(self._query[rows]), len(self._gallery)), np.float32)
        original = _distances(self._query[rows], self._gallery) / self._farthest[rows, None]
        jaccard = np.stack([self._jaccard(row) for row in range(*rows.indices(len(self._query)))])
        return np.asarray((self._weight - 1) * jaccard - self._weight * original, np.float32)

    def _jaccard(self, row: int) -> npt.NDArray[np.float64]:
        """1 - |intersection| / |union| of the encodings of a query and each gallery image (eq. 10): [G]."""
        start, end = self._rows.indptr[row : row + 2]
        shared = self._columns[:, self._rows.indices[start:end]]  # who has a neighbour in common
        smaller = np.minimum(shared.data, np.repeat(self._rows.data[start:end], np.diff(shared.indptr)))
        common = np.bincount(shared.indices, weights=smaller, minlength=len(self._gallery))
        return np.asarray(1 - common / (2 - common))  # both encodings sum to 1


def _neighbours(features: Features, count: int, chunk: int) -> tuple[Integers, npt.NDArray[np.float32]]:
    """The nearest images of each, itself first, [N, count]; and its largest distance [N]."""
    nearest = np.empty((len(features), count), np.int64)
    farthest = np.empty(len(features), np.float32)
    for start in range(0, len(features), chunk):
        distances = _distances(features[start : start + chunk], features)
        rows = np.arange(len(distances))
        farthest[start + rows] = distances.max(axis=1)
        distances[rows, start + rows] = -1
        candidates = np.argpartition(distances, count - 1, axis=1)[:, :count]
        order = np.take_along_axis(distances, candidates, axis=1).argsort(axis=1, kind="stable")
        nearest[start + rows] = np.take_along_axis(candidates, order, axis=1)
    return nearest, farthest


def _distances(x: Features, y: Features) -> npt.NDArray[np.float32]:
    """Squared Euclidean distances of rows of unit length."""
    distances = np.asarray(2 - 2 * (x @ y.T))
    distances[distances < ROUNDING] = 0
    return distances


def _expanded(neighbours: Integers, k1: int) -> csr_array:
    """R*, the robust k-reciprocal neighbourhood of each image (eq. 2 and 3), as a matrix of zeros and ones.

    The k-reciprocal neighbours, and all of those of such a neighbour (with half the k) if more than two
    thirds of them are among them.
    """
    reciprocal = _reciprocal(neighbours)
    halves = _reciprocal(neighbours[:, : round(k1 / 2) + 1])
    overlap = reciprocal.multiply(reciprocal @ halves.T).tocoo()
    taken = 3 * overlap.data > 2 * halves.sum(axis=1)[overlap.col]
    candidates = csr_array((overlap.data[taken], (overlap.row[taken], overlap.col[taken])), overlap.shape)
    return (reciprocal + candidates @ halves).sign()


def _reciprocal(neighbours: Integers) -> csr_array:
    """Who is a neighbour of whose neighbour (eq. 1)."""
    members = _members(neighbours)
    return members.multiply(members.T).tocsr()


def _members(neighbours: Integers) -> csr_array:
    count, width = neighbours.shape
    rows = np.repeat(np.arange(count), width)
    return csr_array((np.ones(neighbours.size), (rows, neighbours.ravel())), (count, count))


def _encode(members: csr_array, features: Features, farthest: npt.NDArray[np.float32]) -> csr_array:
    """exp(-d) at the neighbours, and 0 elsewhere (eq. 7), each row scaled to the sum 1."""
    weights = np.empty(members.nnz)
    for row, (start, end) in enumerate(zip(members.indptr, members.indptr[1:], strict=False)):
        near = features[members.indices[start:end]]
        exponentials = np.exp(-_distances(near, features[row]).astype(np.float64) / farthest[row])
        weights[start:end] = exponentials / exponentials.sum()
    return csr_array((weights, members.indices, members.indptr), members.shape)
