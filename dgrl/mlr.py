"""The multi-low-resolution (MLR) protocol: who is split where, and who is degraded by what.

Paper IV-A and IV-C, after Jiao et al., Deep Low-Resolution Person Re-Identification, AAAI 2018. Every draw is
named by (seed, dataset, trial, person or image), so no draw depends on which other images there are.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple

import cv2
import numpy as np
import pandas as pd
from pydantic import Field

from dgrl.config import IntTuple, Section
from dgrl.errors import InputError
from dgrl.images import Image
from dgrl.random import named_generator, named_seed
from dgrl.tables import ImageRow

TABLES = ("train_hr", "train_lr", "query", "gallery")


class MlrParams(Section):
    """``mlr:`` of params.yaml; (d) marks what the paper leaves open."""

    seed: int = 0
    trial: Annotated[int, Field(ge=0)] = 0  # which of the random splits of persons
    factors: Annotated[IntTuple, Field(min_length=1)] = (2, 3, 4)  # r
    factor_per: Literal["image", "camera"] = "image"  # (d) one r per image, or one per camera as in CAD-Net
    lr_camera: dict[str, str] = Field(default_factory=dict)  # by dataset, of the LR queries
    evaluate_on: Literal["test", "val"] = "test"  # val: hold out training persons and evaluate on them
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2  # of the training persons


class Role(NamedTuple):
    """What one image is for, and the down-sampling factor of its LR picture (1 in the gallery)."""

    subset: Literal["train", "query", "gallery"]
    factor: int


@dataclass(frozen=True)
class Split:
    """What becomes of each image.

    Attributes:
        roles: of each kept image, by image_id.
        train_persons, test_persons: sorted person_ids.
    """

    roles: dict[str, Role]
    train_persons: list[str]
    test_persons: list[str]


def plan_split(keys: pd.DataFrame, dataset: str, params: MlrParams) -> Split:
    """Decide the role and the factor of every image.

    Args:
        keys: columns image_id, person_id, camera_id and subset (``train`` and ``test`` where the benchmark
            has an official split, else ``all``).
        dataset: its name, part of the name of every draw.
        params: the ``mlr`` section.

    Raises:
        InputError: if the LR camera is unknown, or a query person has no gallery image.
    """
    lr_camera = _lr_camera(keys, dataset, params)
    train, test = _split_persons(keys, dataset, params)
    roles = {}
    for row in keys.sort_values("image_id").itertuples():
        image_id, camera = str(row.image_id), str(row.camera_id)
        factor = _factor(image_id, camera, dataset, params)
        if row.person_id in train:
            roles[image_id] = Role("train", factor)
        elif row.person_id in test:
            roles[image_id] = Role("query", factor) if camera == lr_camera else Role("gallery", 1)
    _check_queries(keys, roles, dataset, lr_camera)
    return Split(roles, sorted(train), sorted(test))


def downsample(image: Image, factor: int) -> Image:
    """Shrink by pixel area relation (paper IV-C): [H, W, 3] -> [H // factor, W // factor, 3].

    Raises:
        InputError: if nothing would be left.
    """
    height, width = image.shape[0] // factor, image.shape[1] // factor
    if min(height, width) < 1:
        raise InputError(
            f"a picture of {image.shape[1]}x{image.shape[0]} pixels is too small for factor {factor}"
        )
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def apply_split(row: ImageRow, role: Role) -> dict[str, ImageRow]:
    """The rows that an image contributes, by table.

    A training image gives itself and its LR twin of the same image_id (N pairs, III-A), a query image its LR
    picture, a gallery image itself.
    """
    untouched = replace(row, subset=role.subset)
    if role.subset == "gallery":
        return {"gallery": untouched}
    low = ImageRow.from_pixels(
        downsample(row.pixels(), role.factor),
        f"{row.image_id}_x{role.factor}.png",
        image_id=row.image_id,
        person_id=row.person_id,
        camera_id=row.camera_id,
        subset=role.subset,
        factor=role.factor,
    )
    return {"query": low} if role.subset == "query" else {"train_hr": untouched, "train_lr": low}


def table_digest(keys: pd.DataFrame) -> str:
    """SHA-256 of ids, cameras, factors and decoded pixels of a table, whatever the order of its rows."""
    columns = ["image_id", "person_id", "camera_id", "factor", "pixel_sha256"]
    lines = sorted("\x1f".join(map(str, values)) for values in keys[columns].itertuples(index=False))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def describe(
    split: Split, tables: dict[str, pd.DataFrame], dataset: str, params: MlrParams
) -> dict[str, Any]:
    """``split.json``: options, persons, factors, counts and digests."""
    return {
        "dataset": dataset,
        "options": params.model_dump(mode="json") | {"lr_camera": params.lr_camera[dataset]},
        "train_persons": split.train_persons,
        "test_persons": split.test_persons,
        "factors": {name: role.factor for name, role in split.roles.items() if role.subset != "gallery"},
        "counts": {
            name: {
                "images": len(keys),
                "persons": keys.person_id.nunique(),
                "factors": dict(sorted(Counter(map(int, keys.factor)).items())),
            }
            for name, keys in tables.items()
        },
        "digests": {name: table_digest(keys) for name, keys in tables.items()},
    }


def _lr_camera(keys: pd.DataFrame, dataset: str, params: MlrParams) -> str:
    cameras = sorted(set(keys.camera_id))
    chosen = params.lr_camera.get(dataset)
    if chosen is None or chosen not in cameras:
        raise InputError(
            f"params.yaml: mlr.lr_camera.{dataset} = {chosen!r} is no camera of {dataset} "
            f"(allowed: {', '.join(cameras)})"
        )
    return chosen


def _split_persons(keys: pd.DataFrame, dataset: str, params: MlrParams) -> tuple[set[str], set[str]]:
    """The official split where there is one, else a random half of the persons per trial."""
    persons = sorted(set(keys.person_id))
    train = set(keys.person_id[keys.subset == "train"])
    if not train:
        train = set(_draw(persons, len(persons) // 2, "persons", params.seed, dataset, params.trial))
    if params.evaluate_on == "test":
        return train, set(persons) - train
    held_out = round(len(train) * params.val_fraction)
    test = set(_draw(sorted(train), held_out, "val", params.seed, dataset, params.trial))
    return train - test, test


def _draw(persons: list[str], count: int, *names: str | int) -> list[str]:
    """``count`` persons at random: those with the smallest of numbers named after them."""
    return sorted(persons, key=lambda person: (named_seed(*names, person), person))[:count]


def _factor(image_id: str, camera_id: str, dataset: str, params: MlrParams) -> int:
    name = image_id if params.factor_per == "image" else camera_id
    rng = named_generator("factor", params.seed, dataset, params.trial, name)
    return params.factors[int(rng.integers(len(params.factors)))]


def _check_queries(keys: pd.DataFrame, roles: dict[str, Role], dataset: str, lr_camera: str) -> None:
    subset = keys.image_id.map({name: role.subset for name, role in roles.items()})
    queries = set(keys.person_id[subset == "query"])
    missing = sorted(queries - set(keys.person_id[subset == "gallery"]))
    if not queries:
        raise InputError(f"{dataset}: no test person was seen by the LR camera {lr_camera}; choose another")
    if missing:
        raise InputError(
            f"{dataset}: person {missing[0]} is a query but has no gallery image outside camera {lr_camera} "
            f"({len(missing)} such persons); remove them or choose another LR camera"
        )
