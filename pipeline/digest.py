"""Digests of the MLR tables, computed from the images themselves."""

from pathlib import Path

import pandas as pd

from dgrl.errors import InputError
from dgrl.images import pixel_sha256
from dgrl.mlr.protocol import TABLES, table_digest
from dgrl.parallel.shards import DEFAULT_BACKEND, Backend, map_shards
from dgrl.tables import read_keys, read_rows, shards
from pipeline.paths import Paths


def digest(
    dataset: str, workers: int | None = None, backend: Backend = DEFAULT_BACKEND
) -> dict[str, tuple[int, str]]:
    """The number of images and the digest of each table of ``data/<dataset>/mlr``.

    Raises:
        InputError: if a table is missing, or an image is not the one that its row describes.
    """
    tables = {table: Paths(dataset).mlr(table) for table in TABLES}
    paths = [path for folder in tables.values() for path in shards(folder)]
    map_shards(_check_shard, paths, workers=workers, description=f"digest {dataset}", backend=backend)
    keys: dict[str, pd.DataFrame] = {table: read_keys(folder) for table, folder in tables.items()}
    return {table: (len(rows), table_digest(rows)) for table, rows in keys.items()}


def _check_shard(path: Path) -> None:
    for row in read_rows(path):
        if pixel_sha256(row.pixels()) != row.pixel_sha256:
            raise InputError(
                f"{path}: the image of {row.image_id} is not the one that was written (its pixel_sha256 "
                "differs); run the split stage again (dvc repro --force split)"
            )
