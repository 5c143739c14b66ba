"""The multi-low-resolution (MLR) protocol: who is split where, and who is degraded by what.

Paper IV-A and IV-C, after Jiao et al., Deep Low-Resolution Person Re-Identification, AAAI 2018. Every draw is
named by (seed, dataset, trial, person or image), so no draw depends on which other images there are.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, get_args

import pandas as pd
from pydantic import BeforeValidator, Field, Strict, field_validator

from dgrl.config import Section
from dgrl.errors import InputError
from dgrl.mlr.degrade import Degradation, Entry, Kernel, Recipe, degradation
from dgrl.random import named_generator, named_seed
from dgrl.tables import DISTRACTOR, JUNK, QUERY

TABLES = ("train_hr", "train_lr", "query", "gallery")
RANDOM = "random"  # an LR camera for each person, as in VPFA's public code

Factor = Annotated[int, Field(ge=2, le=8)]
Camera = Annotated[str, BeforeValidator(lambda name: str(name) if type(name) is int else name)]  # 1, "1"
Per = Literal["image", "camera", "person"]


class MlrParams(Section):
    """The section ``mlr``; (d) marks what the paper leaves open."""

    seed: int = 0
    trial: Annotated[int, Field(ge=0)] = 0  # which of the random (or official) splits of persons
    factors: Annotated[tuple[Factor, ...], Strict(False), Field(min_length=1)] = (2, 3, 4)  # r
    train_factor_per: Per = "image"  # all images of one image, camera or person have one r; image: III-A
    query_factor_per: Per | dict[str, Per] = "image"  # (d) likewise, of all datasets or by dataset: IV-A
    lr_camera: dict[str, Camera] = Field(default_factory=dict)  # (d) by dataset: a camera, pattern, or random
    real_lr: Annotated[tuple[str, ...], Strict(False)] = ("caviar",)  # datasets whose LR images are real
    recipe: Recipe = "dgrl"  # how LR images are made: the paper's area resampling, IV-C, or public code's
    kernel: Kernel | None = None  # null: the recipe's
    jpeg_quality: Annotated[int, Field(ge=0, le=100)] | None = None  # 0: lossless; null: the recipe's
    twins: Literal["one", "every_factor"] = (
        "one"  # LR twins of an HR training image; one is sampled each epoch
    )
    training_pairs: Literal["auto", "twin", "person"] = "auto"  # see pairs_of
    queries: Literal["lr_camera", "official"] = "lr_camera"  # (d) all its test images, or the official ones
    # val: hold out training persons and evaluate on them; everyone: train on all and evaluate on the same
    evaluate_on: Literal["test", "val", "everyone"] = "test"
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2  # of the training persons

    @field_validator("query_factor_per", mode="before")
    @classmethod
    def _check_per(cls, value: Any) -> Any:
        allowed = get_args(Per)
        if any(per not in allowed for per in (value.values() if isinstance(value, dict) else [value])):
            raise ValueError(f"must be one of {', '.join(allowed)}, for all datasets or by dataset")
        return value

    def pairs_of(self, dataset: str) -> Literal["twin", "person"]:
        """What an HR/LR pair to train on is: an image and its LR twin (III-A), or two images of a person.

        ``auto`` is ``person`` where LR images are real, else ``twin``. Real LR images are no part of twins.
        """
        if self.training_pairs == "auto":
            return "person" if dataset in self.real_lr else "twin"
        return self.training_pairs

    @property
    def degradation(self) -> Degradation:
        """How LR images are made and stored."""
        return degradation(self.recipe, self.kernel, self.jpeg_quality)

    def query_factor_per_of(self, dataset: str) -> Per:
        """How r is drawn for the queries of a dataset; per image where nothing is said of it."""
        per = self.query_factor_per
        return per.get(dataset, "image") if isinstance(per, dict) else per


@dataclass(frozen=True)
class Split:
    """What becomes of each image.

    Attributes:
        entries: of each image that is used, by image_id.
        train_persons, test_persons: sorted person_ids.
        dropped_persons: with real LR images, persons without either an HR or an LR one.
        left_out_queries: sorted image_ids of LR test images whose person has no gallery image.
        notes: what a person ought to know of it.
    """

    entries: dict[str, tuple[Entry, ...]]
    train_persons: list[str]
    test_persons: list[str]
    dropped_persons: list[str]
    left_out_queries: list[str]
    notes: list[str]


def plan_split(
    keys: pd.DataFrame, dataset: str, params: MlrParams, official: Sequence[Sequence[str]] = ()
) -> Split:
    """Decide the tables and the factor of every image.

    Args:
        keys: columns image_id, person_id, camera_id and subset: ``train`` and ``test`` where the
            persons are given, else ``all`` (if only one of the two is given, everyone else is of the
            other); ``QUERY`` for a test image that the benchmark has as query; ``DISTRACTOR`` or ``JUNK``
            for images of no person.
        dataset: its name, part of the name of every draw.
        params: the ``mlr`` section.
        official: the test persons of each trial, where the benchmark lists them (CUHK03's testsets).

    Raises:
        InputError: if the LR camera or the trial is unknown, official queries are wanted and there are
            none, no query has a gallery image of its person, a person is in training and in test,
            nobody is left to test, or too few persons train to hold some out.
    """
    lr_camera = _lr_camera(keys, dataset, params)
    notes = _note_on_roles(keys, dataset, params)
    keys = keys[keys.subset != JUNK].sort_values("image_id")
    keys = keys.assign(is_lr=seen_by_lr_camera(keys, dataset, params))
    people, nobody = keys[keys.subset != DISTRACTOR], keys[keys.subset == DISTRACTOR]
    dropped = _without_hr_or_lr(people) if dataset in params.real_lr else set()
    people = people[~people.person_id.isin(dropped)]
    train, test = _split_persons(people, dataset, params, official)
    tested, training = (people[people.person_id.isin(persons)] for persons in (test, train))
    is_real, pairs = dataset in params.real_lr, params.pairs_of(dataset)
    if is_real and pairs == "twin":
        training = training[~training.is_lr]
    train_per = None if is_real and pairs == "person" else params.train_factor_per
    training = _with_factors(training, train_per, dataset, params)
    entries = _twins(training, params) if pairs == "twin" else _person_pairs(training, dataset, params)
    query_per = None if is_real else params.query_factor_per_of(dataset)
    tested = _with_factors(tested, query_per, dataset, params)
    queries, gallery = _queries_and_gallery(tested, dataset, params)
    findable = queries.person_id.isin(set(gallery.person_id))
    left_out = sorted(queries.image_id[~findable])
    queries = queries[findable]
    if queries.empty:
        raise InputError(
            f"{dataset}: no test person was seen by the LR camera {lr_camera} and by another camera; choose "
            "another LR camera"
        )
    if left_out:
        notes.append(
            f"{len(left_out)} queries of {dataset} are left out, as their persons have no gallery image"
        )
    if params.evaluate_on != "val":
        gallery = pd.concat([gallery, nobody[~nobody.is_lr]])
    for image_id, factor in zip(queries.image_id.tolist(), queries.factor.tolist(), strict=True):
        entries[image_id] = (*entries.get(image_id, ()), Entry("query", image_id, factor))
    for image_id in gallery.image_id.tolist():
        entries[image_id] = (*entries.get(image_id, ()), Entry("gallery", image_id, 1))
    return Split(dict(sorted(entries.items())), sorted(train), sorted(test), sorted(dropped), left_out, notes)


def table_digest(keys: pd.DataFrame) -> str:
    """SHA-256 of ids, cameras, factors and decoded pixels of a table, whatever the order of its rows."""
    columns = ["image_id", "person_id", "camera_id", "factor", "pixel_sha256"]
    lists = [keys[column].tolist() for column in columns]
    lines = sorted("\x1f".join(map(str, values)) for values in zip(*lists, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def describe(
    split: Split, tables: dict[str, pd.DataFrame], dataset: str, params: MlrParams
) -> dict[str, Any]:
    """``split.json``: options, persons, counts, digests and the factor of every LR image that was made.

    Without those of training images that have an LR image of every factor.
    """
    options = params.model_dump(mode="json") | {
        "lr_camera": params.lr_camera[dataset],
        "query_factor_per": params.query_factor_per_of(dataset),
        "training_pairs": params.pairs_of(dataset),
    }
    if dataset in params.real_lr and params.pairs_of(dataset) == "person":
        del options["twins"]  # a real LR image has none, whatever the params say
    return {
        "dataset": dataset,
        "options": options,
        "train_persons": split.train_persons,
        "test_persons": split.test_persons,
        "dropped_persons": split.dropped_persons,
        "left_out_queries": split.left_out_queries,
        "counts": {
            name: {
                "images": len(keys),
                "persons": keys.person_id.nunique(),
                "factors": dict(sorted(Counter(map(int, keys.factor)).items())),
            }
            for name, keys in tables.items()
        },
        "digests": {name: table_digest(keys) for name, keys in tables.items()},
        "factors": {
            image_id: entry.factor
            for image_id, entries in split.entries.items()
            for entry in entries
            if entry.factor > 1 and (entry.table == "query" or params.twins == "one")
        },
    }


def _lr_camera(keys: pd.DataFrame, dataset: str, params: MlrParams) -> str:
    cameras = sorted(set(keys.camera_id))
    chosen = params.lr_camera.get(dataset)
    if chosen != RANDOM and (chosen is None or not any(fnmatchcase(camera, chosen) for camera in cameras)):
        shown = ", ".join(cameras[:20]) + (", ..." if len(cameras) > 20 else "")
        quote = "; a number that begins with 0 needs quotes: '001'" if (chosen or "").isdecimal() else ""
        raise InputError(
            f"mlr.lr_camera.{dataset} = {chosen!r} is no camera of {dataset} "
            f"(allowed: {shown}, or a pattern such as {cameras[0][0]}*, or {RANDOM}){quote}"
        )
    return chosen


def seen_by_lr_camera(keys: pd.DataFrame, dataset: str, params: MlrParams) -> list[bool]:
    """Whether each image is the LR camera's; at random, that of the camera drawn for the image's person."""
    lr_camera = params.lr_camera[dataset]
    if lr_camera != RANDOM:
        return [fnmatchcase(camera, lr_camera) for camera in keys.camera_id]
    names = ("lr_camera", params.seed, dataset, params.trial)
    seen = zip(keys.person_id, keys.camera_id, strict=True)
    numbers = pd.Series([named_seed(*names, person, camera) for person, camera in seen], keys.index)
    is_drawn = numbers == numbers.groupby(keys.person_id).transform("min")
    many = keys.groupby("person_id").camera_id.transform("nunique") > 1  # else there is none to find them by
    is_lr: list[bool] = (is_drawn & many & (keys.subset != DISTRACTOR)).tolist()
    return is_lr


def _note_on_roles(keys: pd.DataFrame, dataset: str, params: MlrParams) -> list[str]:
    """Where images that are said to be of low resolution are made smaller still."""
    if dataset in params.real_lr or not keys.camera_id.str.startswith("lr:").any():
        return []
    return [
        f"{dataset}: images of role lr are down-sampled as all others; if they are of low resolution "
        "already, add the set to mlr.real_lr"
    ]


def _with_factors(images: pd.DataFrame, per: Per | None, dataset: str, params: MlrParams) -> pd.DataFrame:
    """With a column ``factor``: drawn, one for all images of a ``per``; 1 for real LR images (None)."""

    def draw(name: str) -> int:
        rng = named_generator("factor", params.seed, dataset, params.trial, name)
        return params.factors[int(rng.integers(len(params.factors)))]

    if per is None:
        return images.assign(factor=1)
    names = images[f"{per}_id"]
    drawn = {name: draw(name) for name in set(names)}
    return images.assign(factor=[drawn[name] for name in names])


def _without_hr_or_lr(people: pd.DataFrame) -> set[str]:
    """Persons who cannot make a pair: CAVIAR's 22 who were seen by one camera only (IV-A)."""
    return set(people.person_id[people.is_lr]) ^ set(people.person_id[~people.is_lr])


def _split_persons(
    people: pd.DataFrame, dataset: str, params: MlrParams, official: Sequence[Sequence[str]]
) -> tuple[set[str], set[str]]:
    """Training and test persons: official where there is such a split, else a random half per trial."""
    persons = sorted(set(people.person_id))
    if params.evaluate_on == "everyone":
        return set(persons), set(persons)
    train, test = (
        set(people.person_id[people.subset.isin(subsets)]) for subsets in (("train",), ("test", QUERY))
    )
    if both := sorted(train & test):
        raise InputError(f"{dataset}: person {both[0]} is of the subsets train and test; keep one")
    if official:
        if params.trial >= len(official):
            raise InputError(
                f"mlr.trial = {params.trial}: {dataset} has the official trials 0 to {len(official) - 1}"
            )
        train = set(persons) - set(official[params.trial])
    elif not train and test:
        train = set(persons) - test
    elif not train:
        train = set(_draw(persons, len(persons) // 2, "persons", params.seed, dataset, params.trial))
    if params.evaluate_on == "test":
        if not (test := set(persons) - train):
            raise InputError(
                f"{dataset}: all persons are of the subset train, none is left to test; choose "
                "mlr.evaluate_on: val, which holds some out"
            )
        return train, test
    if len(train) < 2:
        raise InputError(
            f"{dataset}: {len(train)} of {len(persons)} persons train, too few persons to hold some out "
            "(mlr.evaluate_on: val); add persons or choose test"
        )
    held_out = min(max(round(len(train) * params.val_fraction), 1), len(train) - 1)
    test = set(_draw(sorted(train), held_out, "val", params.seed, dataset, params.trial))
    return train - test, test


def _queries_and_gallery(
    tested: pd.DataFrame, dataset: str, params: MlrParams
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The test images of the LR camera and those of the others, of which official queries are no part."""
    if params.queries == "lr_camera":
        return tested[tested.is_lr], tested[~tested.is_lr]
    is_query = tested.subset == QUERY
    if not is_query.any():
        raise InputError(
            f"mlr.queries = 'official': the test persons of {dataset} have no official queries; "
            "choose lr_camera"
        )
    return tested[tested.is_lr & is_query], tested[~tested.is_lr & ~is_query]


def _draw(persons: list[str], count: int, *names: str | int) -> list[str]:
    """``count`` persons at random: those with the smallest of numbers named after them."""
    return sorted(persons, key=lambda person: (named_seed(*names, person), person))[:count]


def _twins(training: pd.DataFrame, params: MlrParams) -> dict[str, tuple[Entry, ...]]:
    """Every HR training image gets an LR twin of its own: N pairs (III-A)."""
    return {
        image_id: (Entry("train_hr", image_id, 1), *_lr_entries(image_id, factor, params))
        for image_id, factor in zip(training.image_id.tolist(), training.factor.tolist(), strict=True)
    }


def _lr_entries(image_id: str, factor: int, params: MlrParams) -> list[Entry]:
    """The LR images of a pair: of the factor that was drawn, or of every one; a real one stays as it is."""
    every = params.twins == "every_factor" and factor > 1
    factors = sorted(set(params.factors)) if every else [factor]
    return [Entry("train_lr", image_id, each) for each in factors]


def _person_pairs(training: pd.DataFrame, dataset: str, params: MlrParams) -> dict[str, tuple[Entry, ...]]:
    """Pairs of an HR and an LR image of one person: each image with another drawn at random.

    The other is the one with the smallest number named after both, so an image that is added or removed
    changes its own pairs and those it is drawn for, and no other.
    """

    def number(pair: tuple[str, str]) -> int:
        return named_seed("pair", params.seed, dataset, params.trial, *pair)

    pairs: set[tuple[str, str]] = set()
    for _, images in training.groupby("person_id"):
        hr, lr = images.image_id[~images.is_lr], images.image_id[images.is_lr]
        if hr.empty or lr.empty:
            continue
        pairs |= {min(((high, low) for low in lr), key=number) for high in hr}
        pairs |= {min(((high, low) for high in hr), key=number) for low in lr}
    factors = dict(zip(training.image_id, training.factor, strict=True))
    entries: dict[str, list[Entry]] = defaultdict(list)
    for high, low in sorted(pairs):
        entries[high].append(Entry("train_hr", f"{high}+{low}", 1))
        entries[low] += _lr_entries(f"{high}+{low}", factors[low], params)
    return {image_id: tuple(rows) for image_id, rows in entries.items()}
