"""Adaptation to two cameras in closed form: whitening what differs between the images of one person.

With pairs (q, g) of a query and a gallery embedding of one person, each side centred by its own mean, let
W = mean of (q - g)(q - g)^T, scaled to a mean eigenvalue of 1. An embedding x becomes
(W + lambda I)^(-1/2) (x - mean of its side), of unit length: directions in which a person's images differ
count less. This is within-class covariance normalisation (Hatch et al., Interspeech 2006), with a mean for
each side.

Fit it on persons whom the network was not trained on: the embeddings of one of its own training persons
differ less than those of others, and W would be too kind.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dgrl.errors import InputError
from dgrl.evaluation.ranking import Embeddings, rank
from dgrl.random import named_seed

Floats = npt.NDArray[np.float64]
Side = Literal["query", "gallery"]

LAMBDAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
FOLDS = 5
MIN_PAIRS = 100  # fewer say little of hundreds of dimensions


@dataclass(frozen=True, eq=False)
class Whitening:
    """A linear map after a network.

    Attributes:
        query_mean, gallery_mean: [D] float64.
        matrix: (W + lambda I)^(-1/2), [D, D] float64, symmetric.
        shrinkage: lambda.
        pairs: the number of pairs that it was fitted on.
    """

    query_mean: Floats
    gallery_mean: Floats
    matrix: Floats
    shrinkage: float
    pairs: int

    def apply(self, features: npt.NDArray[np.floating], side: Side) -> npt.NDArray[np.float32]:
        """Embeddings [N, D] to embeddings [N, D], rows of unit length."""
        mean = self.query_mean if side == "query" else self.gallery_mean
        moved = (features - mean) @ self.matrix
        norms = np.linalg.norm(moved, axis=1, keepdims=True)
        return np.asarray(moved / np.maximum(norms, np.finfo(np.float64).tiny), np.float32)


def fit(query: Embeddings, gallery: Embeddings, seed: int = 0) -> Whitening:
    """The whitening of all pairs of a query and a gallery image of one person.

    Lambda is chosen among ``LAMBDAS`` by the mAP of held-out persons in ``FOLDS`` folds; of equal ones the
    largest.

    Args:
        query: N embeddings of the LR camera.
        gallery: M embeddings of the other cameras.
        seed: of the folds.

    Raises:
        InputError: with fewer than ``MIN_PAIRS`` pairs, or pairs of fewer than two persons a fold.
    """
    persons = np.intersect1d(query.person_ids, gallery.person_ids)
    pairs = len(_pairs(query, gallery)[0])
    if pairs < MIN_PAIRS or len(persons) < 2 * FOLDS:
        raise InputError(
            f"{pairs} pairs of {len(persons)} persons are too few for a whitening; give {MIN_PAIRS} pairs or "
            f"more, of {2 * FOLDS} persons or more"
        )
    order = sorted(persons.tolist(), key=lambda person: named_seed("fold", seed, person))
    scores = np.zeros(len(LAMBDAS))
    for fold in range(FOLDS):
        held_out = order[fold::FOLDS]
        covariance = _Covariance(*_of_persons(query, gallery, set(order).difference(held_out)))
        tested = _of_persons(query, gallery, held_out)
        scores += [rank(*adapted(covariance.whitening(value), *tested)).mean_ap for value in LAMBDAS]
    best = len(LAMBDAS) - 1 - int(np.argmax(scores[::-1]))
    return _Covariance(query, gallery).whitening(LAMBDAS[best])


def adapted(whitening: Whitening, query: Embeddings, gallery: Embeddings) -> tuple[Embeddings, Embeddings]:
    """Both sides after a whitening."""
    return (
        Embeddings(whitening.apply(query.features, "query"), query.person_ids, query.camera_ids),
        Embeddings(whitening.apply(gallery.features, "gallery"), gallery.person_ids, gallery.camera_ids),
    )


class _Covariance:
    """W of all pairs, by its eigenvalues and eigenvectors: one decomposition serves every lambda."""

    def __init__(self, query: Embeddings, gallery: Embeddings) -> None:
        rows, columns = _pairs(query, gallery)
        left, right = query.features[rows].astype(np.float64), gallery.features[columns].astype(np.float64)
        self.means = left.mean(axis=0), right.mean(axis=0)
        difference = (left - self.means[0]) - (right - self.means[1])
        covariance = difference.T @ difference / len(rows)
        mean_eigenvalue = np.trace(covariance) / len(covariance)
        if not mean_eigenvalue:
            raise InputError("the two embeddings of each pair are equal; give images of two cameras")
        self.values, self.vectors = np.linalg.eigh(covariance / mean_eigenvalue)
        self.pairs = len(rows)

    def whitening(self, shrinkage: float) -> Whitening:
        scale = (np.maximum(self.values, 0) + shrinkage) ** -0.5
        return Whitening(*self.means, (self.vectors * scale) @ self.vectors.T, shrinkage, self.pairs)


def _pairs(query: Embeddings, gallery: Embeddings) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    rows, columns = np.nonzero(query.person_ids[:, None] == gallery.person_ids)
    return rows, columns


def _of_persons(
    query: Embeddings, gallery: Embeddings, persons: Iterable[int]
) -> tuple[Embeddings, Embeddings]:
    wanted = list(persons)
    return (
        query.select(np.isin(query.person_ids, wanted)),
        gallery.select(np.isin(gallery.person_ids, wanted)),
    )
