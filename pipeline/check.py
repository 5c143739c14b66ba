"""What can be known to be wrong before hours of work: files, cameras, persons, sizes of images."""

import math
from typing import Any

import pandas as pd

from dgrl.datasets import folder
from dgrl.datasets.archive import require_readable
from dgrl.datasets.pool import PoolParams
from dgrl.errors import InputError
from dgrl.images import image_size
from dgrl.mlr.protocol import plan_split
from dgrl.superres.upscale import load_rcan
from dgrl.tables import read_keys
from pipeline.download import local_archive
from pipeline.params import Params
from pipeline.paths import Paths, located, outside
from pipeline.pretrain_sr import has_lr_to_restore, rcan_weights
from pipeline.results import forgotten_persons, official_splits


def check(dataset: str, params: Params, *, downloaded: bool = False) -> str:
    """Look for what would stop a later stage.

    Args:
        dataset: its name.
        params: those to check.
        downloaded: whether a benchmark's images are in ``data/<dataset>/images``. Without them no more is
            known of it than whether its archive is there.

    Returns:
        What was found, in one line.

    Raises:
        InputError: naming everything that is wrong, in one line.
    """
    problems = _missing_files(dataset, params)
    try:
        keys = source_keys(dataset, params)
        if keys is None and downloaded:
            keys = read_keys(Paths(dataset).images)
        if keys is not None:
            keys = keys[~keys.person_id.isin(forgotten_persons(dataset))]
        if keys is None:
            found = "more is known once its archive is read"
        else:
            training = training_images(keys, dataset, params)
            problems += _too_few_or_small(training, dataset, params)
            found = (
                f"{len(keys)} images of {keys.person_id.nunique()} persons, "
                f"{keys.camera_id.nunique()} cameras; {training.person_id.nunique()} persons train"
            )
    except InputError as error:
        problems.append(str(error))
    if problems:
        raise InputError("; ".join(dict.fromkeys(problems)))
    return f"{dataset}: {found}"


def source_keys(dataset: str, params: Params) -> pd.DataFrame | None:
    """Columns image_id, person_id, camera_id, subset, width and height (pixels), a row an image.

    Returns:
        None for a benchmark, whose archive would have to be read for it.

    Raises:
        InputError: if a file is missing or no image.
    """
    source = located(params.source_of(dataset))
    if isinstance(source, folder.FolderParams):
        with folder.listed(source) as (opened, members):
            rows: list[tuple[Any, ...]] = [
                (*member[:4], *image_size(opened.read(member.name), f"{opened.path}: {member.name}"))
                for member in members
            ]
    elif source.kind == "synthetic":
        size = source.width, source.height
        rows = [
            (f"{person:04d}_c{camera}_{index:02d}", f"{person:04d}", f"c{camera}", "all", *size)
            for person in range(1, source.persons + 1)
            for camera in range(1, source.cameras + 1)
            for index in range(1, source.images_per_camera + 1)
        ]
    else:
        return None
    columns = ["image_id", "person_id", "camera_id", "subset", "width", "height"]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def training_images(keys: pd.DataFrame, dataset: str, params: Params) -> pd.DataFrame:
    """Those that the split makes HR training images of.

    Raises:
        InputError: if the images cannot be split.
    """
    entries = plan_split(keys, dataset, params.mlr, official_splits(dataset)).entries
    trained = {name for name, rows in entries.items() if any(row.table == "train_hr" for row in rows)}
    return keys[keys.image_id.isin(trained)]


def _missing_files(dataset: str, params: Params) -> list[str]:
    problems = []
    source, weights = params.source_of(dataset), params.model.weights
    if weights not in ("none", "imagenet") and not outside(weights).is_file():
        problems.append(
            f"model.weights = {weights!r}: there is no such file; allowed: imagenet, none, or a file"
        )
    if params.rcan.weights is not None and params.sr.method == "rcan" and has_lr_to_restore(dataset, params):
        for scale in params.rcan.scales:
            file = rcan_weights(params.rcan.weights, scale)
            try:
                require_readable(file)
                load_rcan(file, scale)
            except InputError as error:
                problems.append(f"rcan.weights: {error}; null trains RCANs on the set's own images")
    name = f"source.{dataset}"
    parts = {name: source}
    if isinstance(source, PoolParams):
        parts = {f"{name}.sets.{part}": each for part, each in source.sets.items()}
    for name, each in parts.items():
        try:
            local_archive(each, name)
        except InputError as error:
            problems.append(str(error))
    return problems


def _too_few_or_small(training: pd.DataFrame, dataset: str, params: Params) -> list[str]:
    """What training wants of the training images."""
    problems = []
    persons, wanted = training.person_id.nunique(), params.train.persons_per_batch
    held_out = math.ceil(params.train.held_out * persons)
    if persons - held_out < wanted:
        less = f", less {held_out} of train.held_out" if held_out else ""
        problems.append(
            f"train.persons_per_batch = {wanted}, but {dataset} has only {persons} training persons{less}; "
            "lower it or add persons"
        )
    if params.sr.method == "rcan" and has_lr_to_restore(dataset, params):
        if missing := sorted(set(params.mlr.factors) - set(params.rcan.scales)):
            problems.append(f"mlr.factors has {missing[0]}, but rcan.scales has not; add it there")
        if params.rcan.weights is not None:
            return problems
        sides = training[["width", "height"]].min(axis="columns")
        fitting = training.person_id[sides >= params.rcan.patch].nunique()
        if fitting < 2:
            problems.append(
                f"rcan.patch = {params.rcan.patch} fits into images of {fitting} training persons of "
                f"{dataset}, and RCAN needs two; lower it, or set sr.method to bicubic"
            )
    return problems
