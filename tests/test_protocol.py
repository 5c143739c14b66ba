"""Who is split where by the multi-low-resolution protocol, and draws that do not influence each other."""

from collections import Counter
from random import Random
from typing import Literal

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlr_sets import OPTIONS, PARAMS, REAL, Role, crowd, crowds, images, official, roles_of, steady, subset_of
from scipy.stats import chisquare

from dgrl.errors import InputError
from dgrl.mlr.protocol import Entry, MlrParams, Per, describe, plan_split


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
        role = roles_of(split)[str(row.image_id)]
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


@pytest.mark.parametrize("per", ["image", "camera", "person"])
@pytest.mark.parametrize("table", ["train", "query"])
def test_how_training_and_query_factors_are_drawn_is_set_separately(
    table: Literal["train", "query"], per: Per
) -> None:
    """Those of the other table stay as with the default, which is one factor per image."""
    keys = images(crowd(40, cameras=6))
    factors: set[tuple[int, ...]] = set()
    for trial in range(8):
        params = PARAMS.model_copy(update={"trial": trial, "lr_camera": {"set": "c[1-3]"}})
        default = roles_of(plan_split(keys, "set", params))
        roles = roles_of(plan_split(keys, "set", params.model_copy(update={f"{table}_factor_per": per})))
        assert {i: role.subset for i, role in roles.items()} == {i: r.subset for i, r in default.items()}
        drawn = subset_of(keys, roles, table)
        drawn = drawn.assign(factor=[roles[image_id].factor for image_id in drawn.image_id])
        assert {i: role for i, role in roles.items() if role.subset != table} == {
            i: role for i, role in default.items() if role.subset != table
        }
        groups = drawn.groupby(f"{per}_id").factor.agg(set)
        assert {len(group) for group in groups} == {1}
        assert per == "image" or roles != default
        factors.add(tuple(factor for (factor,) in groups))
    assert len(factors) > 4


def test_how_query_factors_are_drawn_may_differ_between_datasets() -> None:
    keys = images(crowd(40))
    params = MlrParams(lr_camera={"a": "c1", "b": "c1"}, query_factor_per={"a": "camera"})
    for dataset, count in (("a", 1), ("b", 3)):
        split = plan_split(keys, dataset, params)
        roles = roles_of(split)
        assert len({role.factor for role in roles.values() if role.subset == "query"}) == count
        per = "camera" if dataset == "a" else "image"
        assert describe(split, {}, dataset, params)["options"]["query_factor_per"] == per


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
    message = rf"^mlr\.lr_camera\.set = {told} is no camera of set \(allowed: c1, c2, or a pattern"
    with pytest.raises(InputError, match=message):
        plan_split(images(crowd(4)), "set", MlrParams(lr_camera=chosen))


def test_a_camera_of_digits_wants_quotes() -> None:
    keys = images(crowd(4))
    keys["camera_id"] = keys.camera_id.map({"c1": "001", "c2": "002"})
    plan_split(keys, "set", MlrParams(lr_camera={"set": "001"}))
    with pytest.raises(InputError, match="a number that begins with 0 needs quotes: '001'"):
        plan_split(keys, "set", MlrParams(lr_camera={"set": 1}))  # type: ignore[dict-item]


def test_queries_without_a_gallery_image_are_left_out() -> None:
    subsets = dict.fromkeys(["0000", "0001"], "train")
    keys = images(crowd(4) | {"7777": (1, 0), "8888": (2, 0)}, subsets)
    split = plan_split(keys, "set", PARAMS)
    assert split.entries == plan_split(images(crowd(4), subsets), "set", PARAMS).entries
    assert split.left_out_queries == ["7777_c1_0", "8888_c1_0", "8888_c1_1"]
    (note,) = split.notes
    assert "3 queries of set are left out" in note
    told = describe(split, {}, "set", PARAMS)
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


@pytest.mark.parametrize(("choice", "queries", "gallery"), [("official", 2, 12), ("lr_camera", 8, 16)])
def test_the_official_queries(choice: Literal["official", "lr_camera"], queries: int, gallery: int) -> None:
    """Two persons and three cameras, a query and three test images by each, counted by hand."""
    keys = images(crowd(4, each=4, cameras=3), dict.fromkeys(["0000", "0001"], "train"))
    keys.loc[keys.subset == "all", "subset"] = "test"
    keys.loc[(keys.subset == "test") & keys.image_id.str.endswith("_0"), "subset"] = "query"
    split = plan_split(keys, "set", PARAMS.model_copy(update={"queries": choice}))
    assert (split.train_persons, split.test_persons) == (["0000", "0001"], ["0002", "0003"])
    counts = Counter(role.subset for role in roles_of(split).values())
    assert counts == {"train": 24, "query": queries, "gallery": gallery}
    if choice == "official":
        chosen = subset_of(keys, roles_of(split), "query")
        assert (set(chosen.subset), set(chosen.camera_id)) == ({"query"}, {"c1"})
        chosen = subset_of(keys, roles_of(split), "gallery")
        assert (set(chosen.subset), set(chosen.camera_id)) == ({"test"}, {"c2", "c3"})


def test_a_set_without_official_queries() -> None:
    with pytest.raises(InputError, match=r"mlr.queries = 'official': the test persons of set have no"):
        plan_split(images(crowd(4)), "set", PARAMS.model_copy(update={"queries": "official"}))


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


@steady
@given(crowds(2))
def test_real_lr_images_are_no_part_of_twins(counts: dict[str, tuple[int, ...]]) -> None:
    keys = images(counts)
    params = REAL.model_copy(update={"training_pairs": "twin"})
    split, usual = plan_split(keys, "set", params), plan_split(keys, "set", REAL)
    assert (split.train_persons, split.test_persons) == (usual.train_persons, usual.test_persons)
    roles = roles_of(split)
    near = keys[keys.person_id.isin(split.train_persons) & (keys.camera_id != "c1")]
    assert set(subset_of(keys, roles, "train").image_id) == set(near.image_id)
    assert {roles[image_id].factor for image_id in near.image_id} <= {2, 3, 4}
    tested = {i: entries for i, entries in usual.entries.items() if entries[0].table in ("query", "gallery")}
    assert {i: entries for i, entries in split.entries.items() if len(entries) == 1} == tested
    assert describe(split, {}, "set", params)["options"]["training_pairs"] == "twin"


def test_images_of_role_lr_are_not_made_smaller_in_silence() -> None:
    keys = images(crowd(4))
    keys["camera_id"] = keys.camera_id.map({"c1": "lr:c1", "c2": "hr:c2"})
    real = MlrParams(lr_camera={"set": "lr:*"}, real_lr=("set",))
    assert plan_split(keys, "set", real).notes == []
    (note,) = plan_split(keys, "set", MlrParams(lr_camera={"set": "lr:*"})).notes
    assert "set: images of role lr are down-sampled as all others; if they are" in note
