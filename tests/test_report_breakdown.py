"""What the report counts: by factor, by camera pair, similarities, and which queries it shows."""

import numpy as np
import pytest

from dgrl.evaluation.ranking import Embeddings, rank
from dgrl.random import named_generator
from dgrl.report.breakdown import by_camera_pair, by_factor, similarities
from dgrl.report.choose import choose_examples


def embeddings(count, persons, cameras, name):
    rng = named_generator("breakdown", name)
    features = rng.normal(size=(count, 8))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return Embeddings(features, rng.integers(0, persons, count), rng.integers(0, cameras, count))


@pytest.fixture(scope="module")
def query():
    return embeddings(300, 20, 3, "query")


@pytest.fixture(scope="module")
def gallery():
    found = embeddings(400, 20, 3, "gallery")
    found.person_ids[:30] = -1  # distractors
    return found


def test_a_factor_has_the_metrics_of_its_queries_alone(query, gallery):
    factors = named_generator("breakdown", "factors").integers(2, 4, 300)
    rows = by_factor(rank(query, gallery), factors)
    assert rows.index.tolist() == ["x2", "x3"]
    chosen = factors == 3
    alone = rank(
        Embeddings(query.features[chosen], query.person_ids[chosen], query.camera_ids[chosen]), gallery
    )
    expected = alone.metrics()
    assert rows.loc["x3"].to_dict() == pytest.approx({name: expected[name] for name in rows.columns})


def test_a_camera_pair_is_one_camera_against_another(query, gallery):
    names = np.array(["a", "b", "c"], object)
    rows, count = by_camera_pair(query, gallery, names[query.camera_ids], names[gallery.camera_ids])
    assert count == len(rows) == 6
    assert set(rows.index) == {f"{a} to {b}" for a in "abc" for b in "abc" if a != b}
    assert rows.queries.is_monotonic_decreasing
    left, right = query.camera_ids == 0, gallery.camera_ids == 2
    assert rows.gallery["a to c"] == right.sum()
    found = []  # Rank-10 of the whole gallery would differ: mAP, one query at a time
    for feature, person in zip(query.features[left], query.person_ids[left], strict=True):
        order = np.argsort(-(gallery.features[right] @ feature))
        hits = (gallery.person_ids[right] == person)[order]
        if hits.any():
            found.append(100 * np.mean(np.arange(1, hits.sum() + 1) / (1 + np.flatnonzero(hits))))
    assert rows.mAP["a to c"] == pytest.approx(np.mean(found))
    assert rows.queries["a to c"] == len(found)


def test_the_histogram_leaves_out_the_same_person_by_the_same_camera(query, gallery):
    bins = similarities(query, gallery)
    values = query.features @ gallery.features.T
    same = query.person_ids[:, None] == gallery.person_ids
    other = query.camera_ids[:, None] != gallery.camera_ids
    width = bins.similarity.iloc[1] - bins.similarity.iloc[0]
    edges = np.append(bins.similarity, bins.similarity.iloc[-1] + width)
    for name, chosen in (("positives", same & other), ("negatives", ~same)):
        counts = np.histogram(values[chosen], edges)[0]
        np.testing.assert_allclose(bins[name], 100 * counts / chosen.sum(), atol=1e-9)
        assert bins[name].sum() == pytest.approx(100)


def test_the_worst_and_the_best_are_shown_and_some_others(query, gallery):
    ranking = rank(query, gallery)
    chosen = choose_examples(ranking, 9, seed=0)
    assert [len(rows) for rows in chosen.values()] == [3, 3, 3]
    assert len({row for rows in chosen.values() for row in rows}) == 9
    worst = ranking.best_rank[chosen["worst"]]
    assert worst.tolist() == sorted(ranking.best_rank, reverse=True)[:3]
    best = ranking.average_precision[chosen["best"]]
    assert best[0] == np.nanmax(ranking.average_precision[ranking.best_rank == 1])
    assert chosen == choose_examples(ranking, 9, seed=0)
    assert chosen["random"] != choose_examples(ranking, 9, seed=1)["random"]


@pytest.mark.parametrize("count", [0, 1, 2, 400])
def test_as_many_queries_as_wanted_and_as_there_are(query, gallery, count):
    ranking = rank(query, gallery)
    rows = [row for each in choose_examples(ranking, count, seed=0).values() for row in each]
    assert len(rows) == len(set(rows)) == min(count, ranking.valid.sum())
    assert ranking.valid[rows].all()
