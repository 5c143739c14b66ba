"""Re-ranking against the paper's sets and sums written out, in float64."""

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest

from dgrl.errors import InputError
from dgrl.evaluation.ranking import Embeddings, rank
from dgrl.evaluation.rerank import KReciprocal
from dgrl.random import named_generator

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating]


def crowd(seed: int, count: int, persons: int = 8, dimension: int = 6) -> npt.NDArray[np.float32]:
    """Unit vectors in loose groups."""
    generator = named_generator("test_rerank", seed)
    centres = generator.normal(size=(persons, dimension))
    vectors = centres[generator.integers(0, persons, count)] + generator.normal(0, 0.5, (count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def slow_distances(query: Features, gallery: Features, k1: int, k2: int, weight: float) -> Floats:
    """Zhong et al., equations 1 to 12, set by set."""
    features = np.concatenate([query, gallery]).astype(np.float64)
    count = len(features)
    distance = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    distance /= distance.max(axis=1, keepdims=True)
    order = distance.argsort(axis=1)

    def nearest(i: int, k: int) -> set[int]:
        return set(order[i, : k + 1].tolist())  # itself and k others

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in nearest(i, k) if i in nearest(j, k)}

    encodings = np.zeros((count, count))
    for i in range(count):
        near = reciprocal(i, k1)
        robust = set(near)
        for j in near:
            half = reciprocal(j, round(k1 / 2))
            if len(half & near) > 2 / 3 * len(half):
                robust |= half
        for j in robust:
            encodings[i, j] = np.exp(-distance[i, j])
        encodings[i] /= encodings[i].sum()
    encodings = np.array([encodings[order[i, :k2]].mean(axis=0) for i in range(count)])
    final = np.empty((len(query), len(gallery)))
    for i in range(len(query)):
        for j in range(len(gallery)):
            one, other = encodings[i], encodings[len(query) + j]
            jaccard = 1 - np.minimum(one, other).sum() / np.maximum(one, other).sum()
            final[i, j] = (1 - weight) * jaccard + weight * distance[i, len(query) + j]
    return final


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("k1", "k2", "weight"), [(20, 6, 0.3), (7, 1, 0.0), (6, 3, 0.8), (1, 1, 0.5)])
@pytest.mark.parametrize("chunk", [7, 256])
def test_distances_are_the_papers(seed: int, k1: int, k2: int, weight: float, chunk: int) -> None:
    query, gallery = np.split(crowd(seed, 75), [23])
    similarity = KReciprocal(query, gallery, k1=k1, k2=k2, weight=weight, chunk=chunk)
    expected = slow_distances(query, gallery, k1, k2, weight)
    np.testing.assert_allclose(-similarity(slice(None)), expected, atol=2e-6)
    np.testing.assert_allclose(-similarity(slice(20, 30)), expected[20:], atol=2e-6)


def test_with_the_original_distance_alone_the_order_stays() -> None:
    generator = named_generator("test_rerank", "ids")
    query, gallery = (
        Embeddings(features, generator.integers(0, 8, len(features)), generator.integers(0, 3, len(features)))
        for features in np.split(crowd(0, 120), [30])
    )
    plain = rank(query, gallery)
    reranked = rank(query, gallery, similarity=KReciprocal(query.features, gallery.features, weight=1.0))
    assert reranked.metrics() == plain.metrics()


def test_the_metrics_are_those_of_the_papers_distances() -> None:
    """Rank-1 and mAP of a sorted list, person by person."""
    generator = named_generator("test_rerank", "metrics")
    query, gallery = (
        Embeddings(features, generator.integers(0, 8, len(features)), generator.integers(0, 3, len(features)))
        for features in np.split(crowd(1, 120), [30])
    )
    ranking = rank(query, gallery, similarity=KReciprocal(query.features, gallery.features), chunk=11)
    first, precisions = [], []
    for i, row in enumerate(slow_distances(query.features, gallery.features, 20, 6, 0.3)):
        own = gallery.person_ids == query.person_ids[i]
        kept = ~(own & (gallery.camera_ids == query.camera_ids[i]))
        matches = own[kept][row[kept].argsort()]
        if matches.any():
            places = np.flatnonzero(matches) + 1
            first.append(places[0] == 1)
            precisions.append((np.arange(1, len(places) + 1) / places).mean())
    metrics = ranking.metrics()
    assert metrics["multi_shot.rank1"] == pytest.approx(100 * np.mean(first))
    assert metrics["mAP"] == pytest.approx(100 * np.mean(precisions))


@pytest.mark.parametrize("features", [crowd(0, 1), np.eye(1, 6, dtype=np.float32)])
def test_a_collapsed_model_scores_nothing(features: npt.NDArray[np.float32]) -> None:
    """Equal features make a tie, whatever rounding makes of them."""
    persons = np.arange(40) % 10
    query, gallery = (
        Embeddings(np.tile(features, (count, 1)), persons[:count], np.full(count, camera))
        for camera, count in enumerate((10, 40))
    )
    similarity = KReciprocal(query.features, gallery.features, k1=5, k2=2)
    np.testing.assert_array_equal(similarity(slice(2, 9)), np.zeros((7, 40)))
    assert (rank(query, gallery, similarity=similarity).best_rank == 37).all()


def test_some_equal_images_keep_the_similarities_finite() -> None:
    images = np.concatenate([np.tile(crowd(0, 1), (40, 1)), crowd(1, 10)])
    assert np.isfinite(KReciprocal(images[:10], images[10:], k1=5, k2=2)(slice(None))).all()


def test_no_matrix_of_all_images_by_all_is_held() -> None:
    query, gallery = np.split(crowd(0, 4000, persons=200, dimension=32), [1000])
    tracemalloc.start()
    KReciprocal(query, gallery, chunk=64)(slice(0, 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 4000 * 4000  # bytes of one in float32


@pytest.mark.parametrize(("k1", "k2"), [(5, 6), (50, 6), (5, 0)])
def test_too_few_images(k1: int, k2: int) -> None:
    query, gallery = np.split(crowd(0, 50), [20])
    with pytest.raises(InputError, match=f"k1 = {k1}, k2 = {k2} with 50 images; choose 1 <= k2 <= k1 <"):
        KReciprocal(query, gallery, k1=k1, k2=k2)
