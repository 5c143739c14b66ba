"""The multi-low-resolution protocol: exact area averages, and draws that do not influence each other."""

import json
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dgrl.errors import InputError
from dgrl.images import decode, pixel_sha256
from dgrl.mlr.degrade import Entry, downsample, make_row
from dgrl.mlr.protocol import TABLES, MlrParams, Split, describe, plan_split, table_digest
from dgrl.tables import KEYS, ImageRow

Pixels = npt.NDArray[np.uint8]
PARAMS = MlrParams(lr_camera={"set": "c1"})
# The machine may be busy: examples are few, and no test is about how long one takes.
steady = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
DIGESTED = ["image_id", "person_id", "camera_id", "factor", "pixel_sha256"]


def images(counts: dict[str, tuple[int, ...]], subsets: dict[str, str] | None = None) -> pd.DataFrame:
    """The keys of an image table: for every person, how many images each camera c1, c2, ... has of them."""
    return pd.DataFrame(
        [
            (f"{person}_c{camera}_{index}", person, f"c{camera}", (subsets or {}).get(person, "all"))
            for person, numbers in counts.items()
            for camera, number in enumerate(numbers, start=1)
            for index in range(number)
        ],
        columns=["image_id", "person_id", "camera_id", "subset"],
    )


def crowd(persons: int, each: int = 2, cameras: int = 2) -> dict[str, tuple[int, ...]]:
    return {f"{person:04d}": (each,) * cameras for person in range(persons)}


def official(train: int, test: int) -> pd.DataFrame:
    """A benchmark with an official split: persons 0000, 0001, ... train, the rest test."""
    persons = crowd(train + test)
    names = list(persons)
    return images(persons, dict.fromkeys(names[:train], "train") | dict.fromkeys(names[train:], "test"))


class Role(NamedTuple):
    """What an image is for, and the factor of its LR image (1 where there is none)."""

    subset: str
    factor: int


def roles_of(split: Split) -> dict[str, Role]:
    """The role of each image of a set whose training images have twins."""
    roles = {}
    for image_id, entries in split.entries.items():
        assert {entry.image_id for entry in entries} == {image_id}
        tables = [entry.table for entry in entries]
        assert tables in (["train_hr", "train_lr"], ["query"], ["gallery"])
        assert len(tables) == 1 or entries[0].factor == 1
        roles[image_id] = Role(tables[0].removesuffix("_hr"), entries[-1].factor)
    return roles


def subset_of(keys: pd.DataFrame, roles: dict[str, Role], subset: str) -> pd.DataFrame:
    return keys[[image_id in roles and roles[image_id].subset == subset for image_id in keys.image_id]]


def crowds(least: int) -> st.SearchStrategy[dict[str, tuple[int, ...]]]:
    """At least so many persons, each with two or three images by c1 and by c2, and some by c3."""
    names = st.text("0123456789ab", min_size=1, max_size=4)
    counts = st.tuples(st.integers(2, 3), st.integers(2, 3), st.integers(0, 2))
    return st.dictionaries(names, counts, min_size=least, max_size=12)


OPTIONS = st.builds(
    MlrParams,
    seed=st.integers(0, 9),
    trial=st.integers(0, 9),
    factor_per=st.sampled_from(["image", "camera"]),
    lr_camera=st.just({"set": "c1"}),
)


# Downsampling


def area_weights(size: int, count: int) -> npt.NDArray[np.float64]:
    """[count, size]: the share of each of ``size`` pixels in each of ``count`` equal, wider pixels."""
    edges = np.arange(count + 1) * size / count
    left, right = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)
    overlap = np.minimum(pixel + 1, right) - np.maximum(pixel, left)
    return np.clip(overlap, 0, None) * count / size


def area_average(image: Pixels, height: int, width: int) -> npt.NDArray[np.float64]:
    rows, columns = area_weights(image.shape[0], height), area_weights(image.shape[1], width)
    return np.einsum("yh,xw,hwc->yxc", rows, columns, image.astype(np.float64))


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_the_reference_average_keeps_the_mean_and_agrees_with_block_means() -> None:
    image = noise(12, 8)
    blocks = image.reshape(6, 2, 4, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(area_average(image, 6, 4), blocks)
    np.testing.assert_allclose(area_average(image, 5, 3).mean(), image.mean())


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(128, 48), (128, 64), (127, 47), (97, 61), (8, 4), (5, 5)])
def test_downsampling_is_the_area_average(height: int, width: int, factor: int) -> None:
    image = noise(height, width)
    low = downsample(image, factor)
    assert low.dtype == np.uint8
    assert low.shape == (height // factor, width // factor, 3)
    assert np.abs(low - area_average(image, height // factor, width // factor)).max() <= 1


@steady
@given(st.integers(2, 40), st.integers(2, 40), st.integers(2, 4), st.integers(0, 99))
def test_downsampling_is_the_area_average_at_any_size(
    height: int, width: int, factor: int, seed: int
) -> None:
    image = noise(height, width, seed)
    if min(height, width) < factor:
        with pytest.raises(
            InputError, match=f"^an image of {width}x{height} pixels is too small for factor {factor}$"
        ):
            downsample(image, factor)
        return
    low = downsample(image, factor)
    assert np.abs(low - area_average(image, height // factor, width // factor)).max() <= 1


def test_viper_by_three_is_42_by_16() -> None:
    assert downsample(noise(128, 48), 3).shape == (42, 16, 3)


# The split


@steady
@given(crowds(2), OPTIONS)
def test_half_of_the_persons_train_and_the_others_test(
    counts: dict[str, tuple[int, ...]], params: MlrParams
) -> None:
    keys = images(counts)
    split = plan_split(keys, "set", params)
    assert not set(split.train_persons) & set(split.test_persons)
    assert sorted([*split.train_persons, *split.test_persons]) == sorted(counts)
    assert len(split.train_persons) == len(counts) // 2
    assert set(split.entries) == set(keys.image_id)
    for row in keys.itertuples():
        role = roles_of(split)[row.image_id]
        subset = (
            "train"
            if row.person_id in split.train_persons
            else "query"
            if row.camera_id == "c1"
            else "gallery"
        )
        assert role.subset == subset
        assert role.factor in ((1,) if subset == "gallery" else params.factors)


@steady
@given(crowds(2), OPTIONS, st.data())
def test_removing_an_image_changes_no_other(
    counts: dict[str, tuple[int, ...]], params: MlrParams, data: st.DataObject
) -> None:
    keys = images(counts)
    removed = data.draw(st.sampled_from(list(keys.image_id)))
    roles = roles_of(plan_split(keys, "set", params))
    fewer = roles_of(plan_split(keys[keys.image_id != removed], "set", params))
    assert fewer == {image_id: role for image_id, role in roles.items() if image_id != removed}


@steady
@given(crowds(2), OPTIONS, st.data())
def test_another_person_moves_at_most_one(
    counts: dict[str, tuple[int, ...]], params: MlrParams, data: st.DataObject
) -> None:
    added = data.draw(st.text("xyz", min_size=1, max_size=3))
    before = plan_split(images(counts), "set", params).train_persons
    after = plan_split(images(counts | {added: (2, 2)}), "set", params).train_persons
    assert len(set(before) ^ (set(after) - {added})) <= 1


@steady
@given(crowds(2), OPTIONS, st.randoms())
def test_the_order_of_the_rows_is_irrelevant(
    counts: dict[str, tuple[int, ...]], params: MlrParams, random: Random
) -> None:
    keys = images(counts)
    order = list(range(len(keys)))
    random.shuffle(order)
    assert plan_split(keys.iloc[order], "set", params) == plan_split(keys, "set", params)


@pytest.mark.parametrize("change", [{"trial": 1}, {"seed": 1}])
def test_another_trial_or_seed_is_another_draw(change: dict[str, int]) -> None:
    keys = images(crowd(60))
    first, second = (plan_split(keys, "set", p) for p in (PARAMS, PARAMS.model_copy(update=change)))
    stay = set(first.train_persons) & set(second.train_persons)
    assert 5 < len(stay) < 25  # of 30; 15 expected, standard deviation 2
    before, after = roles_of(first), roles_of(second)
    both = [image_id for image_id, role in before.items() if role.subset == "train" == after[image_id].subset]
    same = sum(before[image_id].factor == after[image_id].factor for image_id in both)
    assert same < 0.6 * len(both)  # a third expected


def test_another_dataset_is_another_draw() -> None:
    keys = images(crowd(60))
    other = plan_split(keys, "other", MlrParams(lr_camera={"other": "c1"}))
    assert other.train_persons != plan_split(keys, "set", PARAMS).train_persons


def test_factors_are_uniform() -> None:
    roles = roles_of(plan_split(images(crowd(1000)), "set", PARAMS))
    drawn = Counter(role.factor for role in roles.values() if role.subset != "gallery")
    assert drawn.total() == 3000
    assert chisquare([drawn[factor] for factor in (2, 3, 4)]).pvalue > 0.001


def test_the_factors_of_two_trials_are_independent() -> None:
    keys = images(crowd(1000), dict.fromkeys(list(crowd(1000))[:990], "train"))
    first, second = (
        roles_of(plan_split(keys, "set", MlrParams(trial=t, lr_camera={"set": "c1"}))) for t in (0, 1)
    )
    drawn = Counter((role.factor, second[i].factor) for i, role in first.items() if role.subset == "train")
    assert chisquare([drawn[a, b] for a in (2, 3, 4) for b in (2, 3, 4)]).pvalue > 0.001


def test_every_person_trains_in_half_of_the_trials() -> None:
    keys = images(crowd(20))
    trained: Counter[str] = Counter()
    for trial in range(100):
        trained.update(plan_split(keys, "set", PARAMS.model_copy(update={"trial": trial})).train_persons)
    assert chisquare([trained[person] for person in crowd(20)]).pvalue > 0.001


def test_only_the_chosen_factors_are_drawn() -> None:
    roles = roles_of(plan_split(images(crowd(40)), "set", MlrParams(factors=(3,), lr_camera={"set": "c1"})))
    assert {role.factor for role in roles.values() if role.subset != "gallery"} == {3}


def test_one_factor_per_camera() -> None:
    keys = images(crowd(40, cameras=6))
    factors: set[tuple[int, ...]] = set()
    for trial in range(10):
        params = MlrParams(factor_per="camera", trial=trial, lr_camera={"set": "c1"})
        roles = roles_of(plan_split(keys, "set", params))
        low = [
            (camera, roles[i].factor)
            for i, camera in zip(keys.image_id, keys.camera_id, strict=True)
            if roles[i].subset != "gallery"
        ]
        assert len(set(low)) == 6
        factors.add(tuple(factor for _, factor in sorted(set(low))))
    assert len(factors) > 5


def test_one_factor_per_image_mixes_the_factors_of_a_camera() -> None:
    keys = images(crowd(40))
    roles = roles_of(plan_split(keys, "set", PARAMS))
    queries = subset_of(keys, roles, "query")
    assert {roles[image_id].factor for image_id in queries.image_id} == {2, 3, 4}


def test_the_official_split_is_kept() -> None:
    keys = official(train=7, test=5)
    for trial in range(3):
        split = plan_split(keys, "set", PARAMS.model_copy(update={"trial": trial}))
        assert split.train_persons == sorted(set(keys.person_id[keys.subset == "train"]))
        assert split.test_persons == sorted(set(keys.person_id[keys.subset == "test"]))


@pytest.mark.parametrize("persons", [1, 2, 3])
def test_too_few_persons_to_hold_some_out(persons: int) -> None:
    with pytest.raises(InputError, match=r"set: .* too few persons"):
        plan_split(images(crowd(persons)), "set", PARAMS.model_copy(update={"evaluate_on": "val"}))


@pytest.mark.parametrize("given", [("train", "test"), ("train", "all"), ("all", "test")])
def test_given_persons_are_kept(given: tuple[str, str]) -> None:
    persons = list(crowd(8))
    keys = images(crowd(8), dict.fromkeys(persons[:6], given[0]) | dict.fromkeys(persons[6:], given[1]))
    for trial in range(4):
        split = plan_split(keys, "set", PARAMS.model_copy(update={"trial": trial}))
        assert (split.train_persons, split.test_persons) == (persons[:6], persons[6:])


def test_a_person_of_both_subsets_is_named() -> None:
    keys = pd.concat(
        [images(crowd(2), {"0000": "test", "0001": "train"}), images({"0001": (1, 1)}, {"0001": "test"})]
    )
    with pytest.raises(InputError, match="set: person 0001 is of the subsets train and test"):
        plan_split(keys, "set", PARAMS)


def test_validation_holds_out_official_training_persons() -> None:
    keys = official(train=20, test=10)
    params = PARAMS.model_copy(update={"evaluate_on": "val", "val_fraction": 0.25})
    split = plan_split(keys, "set", params)
    assert sorted(split.train_persons + split.test_persons) == sorted(
        set(keys.person_id[keys.subset == "train"])
    )
    assert (len(split.train_persons), len(split.test_persons)) == (15, 5)
    roles = roles_of(split)
    used = keys[keys.image_id.isin(list(roles))]
    assert set(used.subset) == {"train"}
    assert len(roles) == 20 * 4
    assert set(subset_of(keys, roles, "query").person_id) == set(split.test_persons)
    assert set(subset_of(keys, roles, "gallery").camera_id) == {"c2"}


@steady
@given(crowds(10), OPTIONS)
def test_validation_never_touches_the_persons_of_the_test(
    counts: dict[str, tuple[int, ...]], params: MlrParams
) -> None:
    keys = images(counts)
    test = plan_split(keys, "set", params)
    val = plan_split(keys, "set", params.model_copy(update={"evaluate_on": "val"}))
    assert sorted(val.train_persons + val.test_persons) == test.train_persons
    assert val.test_persons
    for image_id, role in roles_of(val).items():
        if role.subset != "gallery":
            assert roles_of(test)[image_id] == Role("train", role.factor)  # the same draw in both


@pytest.mark.parametrize(
    ("chosen", "told"),
    [({"set": "c9"}, "'c9'"), ({}, "None"), ({"other": "c1"}, "None")],
)
def test_an_unknown_lr_camera_is_named(chosen: dict[str, str], told: str) -> None:
    message = (
        rf"^params\.yaml: mlr\.lr_camera\.set = {told} is no camera of set \(allowed: c1, c2, or a pattern"
    )
    with pytest.raises(InputError, match=message):
        plan_split(images(crowd(4)), "set", MlrParams(lr_camera=chosen))


@pytest.mark.parametrize("queries", ["all", "one"])
def test_queries_without_a_gallery_image_are_left_out(
    queries: Literal["all", "one"], caplog: pytest.LogCaptureFixture
) -> None:
    params = PARAMS.model_copy(update={"queries": queries})
    subsets = dict.fromkeys(["0000", "0001"], "train")
    keys = images(crowd(4) | {"7777": (1, 0), "8888": (2, 0)}, subsets)
    split = plan_split(keys, "set", params)
    assert split.entries == plan_split(images(crowd(4), subsets), "set", params).entries
    assert split.left_out_queries == ["7777_c1_0", "8888_c1_0", "8888_c1_1"]
    assert "3 queries of set are left out" in caplog.text
    told = describe(split, {name: table(1) for name in TABLES}, "set", params)
    assert told["left_out_queries"] == split.left_out_queries


def test_a_set_without_any_query_that_has_a_gallery_image() -> None:
    keys = images({"1": (2, 2), "2": (2, 0), "3": (0, 2)}, {"1": "train"})
    with pytest.raises(InputError, match="no test person was seen by the LR camera c1 and by another"):
        plan_split(keys, "set", PARAMS)


def test_an_lr_camera_that_saw_no_test_person_is_named() -> None:
    keys = images({"1": (2, 2), "2": (0, 2)}, {"1": "train", "2": "test"})
    with pytest.raises(InputError, match="no test person was seen by the LR camera c1"):
        plan_split(keys, "set", PARAMS)


@pytest.mark.parametrize("pattern", ["c1", "c[12]", "*"])
def test_the_lr_camera_may_be_a_pattern(pattern: str) -> None:
    keys = images(crowd(8, cameras=3))
    params = MlrParams(lr_camera={"set": pattern})
    if pattern == "*":
        with pytest.raises(InputError, match=r"no test person was seen by the LR camera .* and by another"):
            plan_split(keys, "set", params)
        return
    queries = subset_of(keys, roles_of(plan_split(keys, "set", params)), "query")
    assert sorted(set(queries.camera_id)) == [f"c{i}" for i in (1, 2) if str(i) in pattern]


def test_one_query_per_person() -> None:
    keys = images(crowd(40, each=4))
    every = roles_of(plan_split(keys, "set", PARAMS))
    one = roles_of(plan_split(keys, "set", PARAMS.model_copy(update={"queries": "one"})))
    queries = subset_of(keys, one, "query")
    assert sorted(queries.person_id) == sorted(set(subset_of(keys, every, "query").person_id))
    assert len({image_id[-1] for image_id in queries.image_id}) == 4  # any of a person's four images
    assert one.items() <= every.items()
    assert {every[image_id].subset for image_id in every.keys() - one.keys()} == {"query"}


def test_the_official_test_persons_of_a_trial() -> None:
    keys = images(crowd(6))
    testsets = [["0001", "0004"], ["0000", "0005"]]
    for trial, persons in enumerate(testsets):
        split = plan_split(keys, "set", PARAMS.model_copy(update={"trial": trial}), testsets)
        assert split.test_persons == persons
        assert split.train_persons == sorted(set(keys.person_id) - set(persons))
    with pytest.raises(InputError, match=r"mlr\.trial = 2: set has the official trials 0 to 1"):
        plan_split(keys, "set", PARAMS.model_copy(update={"trial": 2}), testsets)


def test_distractors_enter_the_gallery_and_junk_nothing() -> None:
    keys = official(train=4, test=4)
    nobody = images({"-": (2, 3)}, {"-": "distractor"})
    junk = images({"?": (2, 3)}, {"?": "junk"})
    all_keys = pd.concat([keys, nobody, junk])
    plain, split = plan_split(keys, "set", PARAMS), plan_split(all_keys, "set", PARAMS)
    added = {name: rows for name, rows in split.entries.items() if name not in plain.entries}
    assert plain.entries.items() <= split.entries.items()
    assert (split.train_persons, split.test_persons) == (plain.train_persons, plain.test_persons)
    assert added == {
        f"-_c2_{i}": (Entry("gallery", f"-_c2_{i}", 1),) for i in range(3)
    }  # not the LR camera's
    val = plan_split(all_keys, "set", PARAMS.model_copy(update={"evaluate_on": "val"}))
    assert not any(name.startswith(("-", "?")) for name in val.entries)


# Real LR images, and pairs of different images of a person

REAL = MlrParams(lr_camera={"set": "c1"}, real_lr=("set",))


@steady
@given(crowds(2), st.sampled_from([REAL, PARAMS.model_copy(update={"training_pairs": "person"})]), st.data())
def test_pairs_are_of_one_person_and_leave_no_image_out(
    counts: dict[str, tuple[int, ...]], params: MlrParams, data: st.DataObject
) -> None:
    keys = images(counts)
    split = plan_split(keys, "set", params)
    pairs: dict[str, dict[str, str]] = {}
    for image_id, entries in split.entries.items():
        for entry in entries:
            if entry.table.startswith("train"):
                assert entry.table not in pairs.setdefault(entry.image_id, {})
                pairs[entry.image_id][entry.table] = image_id
            if entry.table in ("train_lr", "query"):
                assert entry.factor in ((1,) if params is REAL else params.factors)
    for pair in pairs.values():
        high, low = pair["train_hr"].split("_"), pair["train_lr"].split("_")  # person, camera, number
        assert high[0] == low[0]
        assert (high[1] == "c1", low[1] == "c1") == (False, True)
    paired = {image_id for pair in pairs.values() for image_id in pair.values()}
    assert paired == set(keys.image_id[keys.person_id.isin(split.train_persons)])

    removed = data.draw(st.sampled_from(list(keys.image_id)))
    fewer = plan_split(keys[keys.image_id != removed], "set", params)
    before, after = (
        {tuple(entry.image_id.split("+")) for entries in plan.entries.values() for entry in entries}
        for plan in (split, fewer)
    )
    gone = {pair for pair in before if removed in pair}
    partners = {image_id for pair in gone for image_id in pair}
    assert before - after == gone
    assert all(partners & set(pair) for pair in after - before)


def test_persons_without_an_hr_or_an_lr_image_are_dropped() -> None:
    keys = images(crowd(6) | {"far": (2, 0), "near": (0, 2)})
    split = plan_split(keys, "set", REAL)
    assert split.dropped_persons == ["far", "near"]
    assert (len(split.train_persons), len(split.test_persons)) == (3, 3)
    assert not {"far", "near"} & {image_id.split("_")[0] for image_id in split.entries}


# Rows, digests and the description


def row(height: int = 13, width: int = 9) -> ImageRow:
    names = {"image_id": "0001_c1_0", "person_id": "0001", "camera_id": "c1", "subset": "all"}
    return ImageRow.from_pixels(noise(height, width), "0001_c1_0.png", **names, factor=1)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_training_image_gives_itself_and_its_twin(factor: int) -> None:
    name = row().image_id
    high, low = (make_row(row(), Entry(*of)) for of in (("train_hr", name, 1), ("train_lr", name, factor)))
    assert high == replace(row(), subset="train")
    assert (low.image_id, low.person_id, low.camera_id) == (high.image_id, high.person_id, high.camera_id)
    assert (low.subset, low.factor, low.width, low.height) == ("train", factor, 9 // factor, 13 // factor)
    assert low.path == f"0001_c1_0_x{factor}.png"
    np.testing.assert_array_equal(decode(low.data, "low"), downsample(noise(13, 9), factor))
    assert low.pixel_sha256 == pixel_sha256(downsample(noise(13, 9), factor))


def test_a_query_image_gives_the_same_lr_image_as_a_training_image() -> None:
    query, low = (make_row(row(), Entry(table, row().image_id, 2)) for table in ("query", "train_lr"))
    assert query == replace(low, subset="query")


@pytest.mark.parametrize("table", ["gallery", "query"])
def test_factor_one_leaves_an_image_untouched(table: Literal["gallery", "query"]) -> None:
    assert make_row(row(), Entry(table, "other", 1)) == replace(row(), image_id="other", subset=table)


def test_a_distractor_stays_one() -> None:
    nobody = replace(row(), subset="distractor")
    assert make_row(nobody, Entry("gallery", nobody.image_id, 1)) == nobody


def test_an_image_too_small_is_named() -> None:
    with pytest.raises(
        InputError, match=r"^image 0001_c1_0: an image of 3x13 pixels is too small for factor 4"
    ):
        make_row(row(width=3), Entry("query", "0001_c1_0", 4))


def table(count: int = 4) -> pd.DataFrame:
    values = [(f"{i}", f"p{i}", f"c{i % 2}", "train", 2 + i % 3, 9, 13, f"{i:064x}") for i in range(count)]
    return pd.DataFrame(values, columns=KEYS)


def test_the_digest_ignores_the_order_of_rows_and_columns() -> None:
    expected = table_digest(table())
    assert table_digest(table()[::-1]) == expected
    assert table_digest(table()[KEYS[::-1]]) == expected
    assert table_digest(table().assign(note=1.0)) == expected


@pytest.mark.parametrize("column", DIGESTED)
def test_the_digest_tells_every_column(column: str) -> None:
    changed = table()
    changed.loc[2, column] = 9 if column == "factor" else "other"
    assert table_digest(changed) != table_digest(table())


def test_the_digest_tells_exchanged_and_missing_and_repeated_rows() -> None:
    exchanged = table()
    exchanged.loc[[0, 1], "pixel_sha256"] = exchanged.loc[[1, 0], "pixel_sha256"].to_numpy()
    repeated = pd.concat([table(), table()[:1]])
    digests = {table_digest(keys) for keys in (table(), exchanged, table()[:3], repeated)}
    assert len(digests) == 4


def test_the_description_is_json_that_tells_how_the_set_was_made() -> None:
    keys = images(crowd(6))
    split = plan_split(keys, "set", PARAMS)
    parts = {name: table(4) for name in TABLES}
    told = json.loads(json.dumps(describe(split, parts, "set", PARAMS)))
    assert told["dataset"] == "set"
    assert told["options"] == {
        "seed": 0, "trial": 0, "factors": [2, 3, 4], "factor_per": "image", "lr_camera": "c1",
        "real_lr": ["caviar"], "training_pairs": "twin", "queries": "all", "evaluate_on": "test",
        "val_fraction": 0.2, "twins": "one", "recipe": "dgrl", "kernel": None, "jpeg_quality": None,
    }  # fmt: skip
    assert (told["train_persons"], told["test_persons"]) == (split.train_persons, split.test_persons)
    low = {image_id: role for image_id, role in roles_of(split).items() if role.subset != "gallery"}
    assert told["factors"] == {image_id: role.factor for image_id, role in low.items()}
    assert told["counts"]["query"] == {"images": 4, "persons": 4, "factors": {"2": 2, "3": 1, "4": 1}}
    assert told["digests"] == {name: table_digest(table(4)) for name in TABLES}


def test_the_description_of_a_real_set_tells_that_its_pairs_are_of_persons() -> None:
    told = describe(
        plan_split(images(crowd(6)), "set", REAL), {name: table(1) for name in TABLES}, "set", REAL
    )
    assert told["options"]["training_pairs"] == "person"
