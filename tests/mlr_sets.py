"""Small sets for the tests of the multi-low-resolution protocol, and what becomes of their images."""

from typing import Any, NamedTuple

import pandas as pd
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dgrl.mlr.protocol import MlrParams, Per, Split

PARAMS = MlrParams(lr_camera={"set": "c1"})
REAL = MlrParams(lr_camera={"set": "c1"}, real_lr=("set",))
# The machine may be busy: examples are few, and no test is about how long one takes.
steady = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


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


def per_options(per: Per, **others: Any) -> MlrParams:
    return MlrParams(train_factor_per=per, query_factor_per=per, **others)


OPTIONS = st.builds(
    per_options,
    seed=st.integers(0, 9),
    trial=st.integers(0, 9),
    per=st.sampled_from(["image", "camera", "person"]),
    lr_camera=st.just({"set": "c1"}),
)
