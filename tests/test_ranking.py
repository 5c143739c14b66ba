"""Ranking against slow, independent implementations of the same definitions."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgrl.errors import InputError
from dgrl.evaluation.ranking import (
    DISTRACTOR,
    TIE,
    Embeddings,
    Ranking,
    nearest,
    rank,
)
from dgrl.random import named_generator


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def embeddings(features, person_ids, camera_ids):
    return Embeddings(unit(np.asarray(features, float)), np.asarray(person_ids), np.asarray(camera_ids))


def random_set(generator, count, persons, cameras, dimension=3):
    """Features on a coarse grid, so that many distances are exactly equal."""
    grid = generator.integers(-1, 2, (count, dimension))
    grid[~grid.any(axis=1)] = 1
    return embeddings(grid, generator.integers(0, persons, count), generator.integers(0, cameras, count))


def distances(query, gallery, row):
    """In float64, with what float32 rounding blurs made equal."""
    return np.round(1 - gallery.features.astype(float) @ query.features[row].astype(float), 5)


def slow_multi_shot(query, gallery, length, distances=distances):
    """The textbook: sort the whole list of every query and walk down. Non-matches first among equals."""
    firsts, aps, inps, valid = [], [], [], []
    for row, (person, camera) in enumerate(zip(query.person_ids, query.camera_ids, strict=True)):
        distance = distances(query, gallery, row)
        listed = sorted(
            (distance[g], gallery.person_ids[g] == person)
            for g in range(len(distance))
            if not (gallery.person_ids[g] == person and gallery.camera_ids[g] == camera)
        )
        ranks = [place for place, (_, match) in enumerate(listed, start=1) if match]
        valid.append(bool(ranks))
        if ranks:
            firsts.append(ranks[0])
            aps.append(sum(found / place for found, place in enumerate(ranks, start=1)) / len(ranks))
            inps.append(len(ranks) / ranks[-1])
    cmc = [100 * sum(first <= k for first in firsts) / len(firsts) for k in range(1, length + 1)]
    return valid, cmc, 100 * sum(aps) / len(aps), 100 * sum(inps) / len(inps)


def slow_expected_single_shot(query, gallery, length, distances=distances):
    """A product of polynomials for every positive, one factor a person: [valid queries, length]."""
    curves = []
    for row, (person, camera) in enumerate(zip(query.person_ids, query.camera_ids, strict=True)):
        distance = distances(query, gallery, row)
        others = set(gallery.person_ids) - {person, DISTRACTOR}
        positives = np.flatnonzero((gallery.person_ids == person) & (gallery.camera_ids != camera))
        within = []
        for threshold in distance[positives]:
            ahead = np.ones(1)
            for other in others:
                chance = np.mean(distance[gallery.person_ids == other] <= threshold)
                ahead = np.convolve(ahead, [1 - chance, chance])
            within.append(100 * np.pad(ahead, (0, length))[:length].cumsum())
        if within:
            curves.append(np.mean(within, axis=0))
    return np.array(curves)


def test_hundreds_of_positives():
    generator = named_generator("test_ranking", "many")
    query = random_set(generator, 5, persons=2, cameras=1)
    gallery = replace(random_set(generator, 700, persons=2, cameras=1), camera_ids=np.ones(700, int))
    assert np.bincount(gallery.person_ids).min() > 255  # more than a byte counts

    assert_multi_shot(rank(query, gallery), query, gallery)


def test_single_shot_is_what_many_draws_approach():
    generator = named_generator("test_ranking", "draws")
    query = embeddings(generator.normal(size=(80, 8)), generator.integers(0, 40, 80), np.zeros(80, int))
    persons = generator.integers(0, 40, 200)
    gallery = embeddings(generator.normal(size=(200, 8)), persons, generator.integers(0, 3, 200))

    drawing = named_generator("test_ranking", "drawing")
    curves = np.array([one_draw(drawing, query, gallery) for _ in range(400)])

    error = np.abs(curves.mean(axis=0) - rank(query, gallery).single_shot_cmc)
    assert (error <= 4 * curves.std(axis=0) / math.sqrt(len(curves))).all()
    assert curves.std(axis=0)[0] > 0


def one_draw(generator, query, gallery, length=20):
    """The CMC in a gallery with one image per person, for each query of its person by another camera."""
    similarities = query.features @ gallery.features.T
    drawn = [generator.choice(np.flatnonzero(gallery.person_ids == p)) for p in set(gallery.person_ids)]
    ranks = []
    for row, person in enumerate(query.person_ids):
        true = np.flatnonzero((gallery.person_ids == person) & (gallery.camera_ids != query.camera_ids[row]))
        if true.size:
            others = [image for image in drawn if gallery.person_ids[image] != person]
            ahead = similarities[row, others] >= similarities[row, generator.choice(true)]
            ranks.append(1 + ahead.sum())
    return 100 * (np.array(ranks)[:, None] <= np.arange(1, length + 1)).mean(axis=0)


def test_hopeless_positives_are_worth_nothing_and_hopeful_ones_are_exact():
    """A hundred persons, each ahead with probability 1/2, is a binomial that can be written down."""
    for persons in (30, 100, 400):
        near, far = [1.0, 0.01], [0.0, 1.0]
        query = embeddings([[1.0, 0.0]], [0], [0])
        gallery = embeddings(
            [[1.0, 0.5], *[near, far] * persons],
            [0, *np.repeat(np.arange(1, persons + 1), 2)],
            [1] * (2 * persons + 1),
        )
        expected = 100 * np.cumsum([math.comb(persons, ahead) / 2**persons for ahead in range(20)])
        np.testing.assert_allclose(rank(query, gallery).single_shot_cmc, expected, rtol=1e-9, atol=1e-12)


def test_a_perfect_model_scores_100_everywhere():
    persons = np.repeat(np.arange(7), 3)
    features = np.eye(7)[persons]
    found = rank(
        embeddings(features, persons, np.zeros(21, int)), embeddings(features, persons, np.ones(21, int))
    )
    assert set(found.metrics().values()) == {100.0, 21}
    np.testing.assert_array_equal(found.cmc, 100)
    np.testing.assert_array_equal(found.single_shot_cmc, 100)


def assert_multi_shot(found, query, gallery, distances=distances):
    valid, cmc, mean_ap, mean_inp = slow_multi_shot(query, gallery, found.single_shot.shape[1], distances)
    np.testing.assert_array_equal(found.valid, valid)
    np.testing.assert_allclose(found.cmc, cmc, rtol=0, atol=1e-9)
    assert (found.mean_ap, found.mean_inp) == pytest.approx((mean_ap, mean_inp), abs=1e-9)


@pytest.mark.parametrize("dimension", [1, 3, 512])
def test_a_collapsed_model_scores_nothing(dimension):
    """Equal features come out of a blocked matrix product unequal by a few roundings; no credit for that."""
    generator = named_generator("test_ranking", "collapsed")
    feature = generator.normal(size=(1, dimension))
    persons = np.repeat(np.arange(40), 5)
    query = embeddings(feature.repeat(37, axis=0), np.arange(37), np.zeros(37, int))
    gallery = embeddings(feature.repeat(200, axis=0), persons, np.ones(200, int))

    found = rank(query, gallery)

    np.testing.assert_array_equal(found.best_rank, 196)
    np.testing.assert_array_equal(found.single_shot_cmc, 0)  # 39 other persons come first


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(1, 25),
    images=st.integers(1, 150),
    persons=st.integers(1, 60),
    distractors=st.integers(0, 40),
    chunk=st.integers(1, 30),
    length=st.integers(1, 25),
)
def test_any_set_agrees_with_the_definitions(seed, queries, images, persons, distractors, chunk, length):
    """Exactly with tie=0, and with the default as if what is nearly equal were equal."""
    generator = named_generator("test_ranking", "any", seed)
    query = random_set(generator, queries, persons, cameras=3)
    gallery = random_set(generator, images + distractors, persons, cameras=3)
    gallery.person_ids[images:] = DISTRACTOR
    gallery.person_ids[0], gallery.camera_ids[0] = query.person_ids[0], 3  # one is valid
    equal = generator.integers(-3, 4, (queries, images + distractors)) / 4
    similarities = (equal + generator.integers(-2, 3, equal.shape) * 2.0**-24).astype(np.float32)

    for tie, expected in ((0, similarities), (TIE, equal)):
        found = rank(
            query,
            gallery,
            similarity=lambda rows: similarities[rows],
            cmc_length=length,
            chunk=chunk,
            tie=tie,
        )

        def distances(query, gallery, row, table=expected):
            return -table[row].astype(float)

        assert_multi_shot(found, query, gallery, distances)
        single_shot = slow_expected_single_shot(query, gallery, length, distances)
        np.testing.assert_allclose(found.single_shot[found.valid], single_shot, rtol=0, atol=1e-9)


FEW_PERSONS = """
import resource, sys
import numpy as np
from dgrl.evaluation.ranking import Embeddings, rank

def crowd(images, camera):
    features = np.random.default_rng(camera).normal(size=(4 * images, 8)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return Embeddings(features, np.arange(4 * images) % 4, np.full(4 * images, camera))

query, gallery = crowd(10, 0), crowd(1500, 1)
rank(crowd(1, 0), crowd(1, 1))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rank(query, gallery)
sys.exit(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > 200 * 1024)  # KiB
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_few_persons_with_many_images_take_little_memory():
    """Images times positives would be a gigabyte."""
    assert subprocess.run([sys.executable, "-c", FEW_PERSONS], check=False).returncode == 0


def test_similarities_may_be_tensors():
    """As those of a GPU are."""
    generator = named_generator("test_ranking", "tensors")
    query, gallery = random_set(generator, 40, 8, 2), random_set(generator, 60, 8, 2)
    features = torch.from_numpy(gallery.features)

    found = rank(
        query,
        gallery,
        similarity=lambda rows: torch.from_numpy(query.features[rows]) @ features.T,
    )

    assert_same(found, rank(query, gallery))


@pytest.mark.parametrize("doubled", [("query",), ("gallery",), ("query", "gallery")])
def test_features_in_double_precision_rank_like_those_in_single(doubled):
    generator = named_generator("test_ranking", "double")
    pair = {"query": random_set(generator, 40, 8, 2), "gallery": random_set(generator, 60, 8, 2)}
    wide = {name: replace(each, features=each.features.astype(float)) for name, each in pair.items()}
    assert_same(rank(**pair | {name: wide[name] for name in doubled}), rank(**pair))


def test_differences_that_only_double_precision_has_count_without_a_tie():
    query = Embeddings(np.array([[1.0, 0.0]]), np.array([0]), np.array([0]))
    angles = np.array([1.0, 1.0 + 1e-12])
    gallery = Embeddings(
        np.stack([np.cos(angles), np.sin(angles)], axis=1), np.array([0, 1]), np.array([1, 1])
    )
    assert rank(query, gallery, tie=0).best_rank == 1
    assert rank(query, gallery).best_rank == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_similarities_that_are_not_finite_name_the_query(value):
    similarities = np.zeros((5, 2), np.float32)
    similarities[3, 1] = value
    query = embeddings(np.ones((5, 2)), np.zeros(5, int), np.zeros(5, int))
    gallery = embeddings(np.eye(2), [0, 1], [1, 1])
    with pytest.raises(InputError, match="similarities of query 3 hold NaN or infinity"):
        rank(query, gallery, similarity=lambda rows: similarities[rows], chunk=2)


def permuted(rows, order):
    return Embeddings(rows.features[order], rows.person_ids[order], rows.camera_ids[order])


def assert_same(one, other, order=slice(None)):
    for name in ("valid", "single_shot", "best_rank", "average_precision", "inverse_penalty"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name)[order], atol=1e-9)


def test_select_ranks_as_if_the_others_were_not_there():
    generator = named_generator("test_ranking", "select")
    query, gallery = random_set(generator, 40, 8, 2), random_set(generator, 60, 8, 2)
    chosen = generator.random(40) < 0.4

    selected = rank(query, gallery).select(chosen)

    assert selected.metrics() == pytest.approx(rank(permuted(query, chosen), gallery).metrics())
    with pytest.raises(InputError, match="none of 0 queries"):
        selected.select(np.zeros(len(selected.valid), bool))


def test_metrics_names_ranks_and_refuses_those_beyond_the_curve():
    generator = named_generator("test_ranking", "metrics")
    query, gallery = random_set(generator, 40, 8, 2), random_set(generator, 60, 8, 2)
    found = rank(query, gallery, cmc_length=4)
    metrics = found.metrics(ranks=(1, 4))
    assert list(metrics) == [
        "rank1",
        "rank4",
        "mAP",
        "mINP",
        "multi_shot.rank1",
        "multi_shot.rank4",
        "queries",
    ]
    assert metrics["rank4"] == found.single_shot_cmc[3]
    assert metrics["multi_shot.rank4"] == found.cmc[3]
    with pytest.raises(InputError, match="Rank-5 is beyond"):
        found.metrics(ranks=(1, 5))


def test_nearest_agrees_with_sorting_and_leaves_out_the_same_camera():
    generator = named_generator("test_ranking", "nearest")
    query = embeddings(
        generator.normal(size=(30, 6)), generator.integers(0, 5, 30), generator.integers(0, 2, 30)
    )
    gallery = embeddings(
        generator.normal(size=(40, 6)), generator.integers(0, 5, 40), generator.integers(0, 2, 40)
    )
    for row, found in enumerate(nearest(query, gallery, count=5)):
        listed = sorted(
            (np.linalg.norm(query.features[row] - gallery.features[g]), g)
            for g in range(40)
            if (gallery.person_ids[g], gallery.camera_ids[g])
            != (query.person_ids[row], query.camera_ids[row])
        )
        assert found.tolist() == [g for _, g in listed[:5]]


def test_nearest_gives_fewer_where_the_gallery_has_fewer():
    query = embeddings([[1, 0]], [3], [0])
    gallery = embeddings([[1, 0], [0, 1]], [3, 3], [0, 1])
    assert [found.tolist() for found in nearest(query, gallery)] == [[1]]


GOOD = embeddings([[1, 0], [0, 1]], [0, 1], [0, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.full((2, 2), np.nan, np.float32)}, "NaN or infinity in row 0"),
        ({"features": np.array([[1, 0], [np.inf, 0]], np.float32)}, "NaN or infinity in row 1"),
        ({"features": np.array([[1, 0], [0, 3]], np.float32)}, "norm 3 in row 1"),
        ({"features": np.zeros((2, 2), np.float32)}, "norm 0 in row 0"),
        ({"features": np.zeros((0, 2), np.float32)}, "at least one image"),
        ({"features": np.ones(2, np.float32)}, r"shape \(2,\)"),
        ({"person_ids": np.zeros(3, int)}, "person_ids have shape"),
        ({"camera_ids": np.zeros((2, 1), int)}, "camera_ids have shape"),
    ],
)
@pytest.mark.parametrize("side", ["query", "gallery"])
@pytest.mark.parametrize("function", [rank, nearest])
def test_wrong_embeddings_are_named(change, message, side, function):
    pair = {"query": GOOD, "gallery": replace(GOOD, camera_ids=np.ones(2, int))}
    pair[side] = replace(pair[side], **change)
    with pytest.raises(InputError, match=f"^{side} .*{message}"):
        function(*pair.values())


def test_other_wrong_input_is_named():
    gallery = replace(GOOD, camera_ids=np.ones(2, int))
    with pytest.raises(InputError, match="2 dimensions, gallery features 3"):
        rank(GOOD, replace(gallery, features=np.eye(3, dtype=np.float32)[:2]))
    with pytest.raises(InputError, match="none of 2 queries"):
        rank(GOOD, GOOD)
    with pytest.raises(InputError, match="query person_ids hold -1"):
        rank(replace(GOOD, person_ids=np.array([0, DISTRACTOR])), gallery)
    with pytest.raises(InputError, match="chunk = 0"):
        rank(GOOD, gallery, chunk=0)
    for tie in (-1e-9, math.nan):
        with pytest.raises(InputError, match="tie = "):
            rank(GOOD, gallery, tie=tie)


def test_ranking_is_its_own_guard():
    empty = np.zeros(2)
    with pytest.raises(InputError, match="none of 2 queries"):
        Ranking(np.zeros(2, bool), np.zeros((2, 5)), empty.astype(int), empty, empty)


def test_distractors_stand_in_the_whole_gallery_but_in_no_single_shot_one():
    generator = named_generator("test_ranking", "distractors")
    query, gallery = random_set(generator, 30, 5, 3), random_set(generator, 60, 5, 3)
    nobody = replace(random_set(generator, 40, 1, 3), person_ids=np.full(40, DISTRACTOR))
    names = ("features", "person_ids", "camera_ids")
    crowded = Embeddings(*(np.concatenate([getattr(gallery, n), getattr(nobody, n)]) for n in names))
    alone, beside = rank(query, gallery), rank(query, crowded)
    np.testing.assert_allclose(beside.single_shot_cmc, alone.single_shot_cmc)
    assert_multi_shot(beside, query, crowded)
