"""Stage split: the images to the MLR training, query and gallery tables."""

import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pandas as pd

from dgrl.files import atomic_folder
from dgrl.mlr.degrade import Degradation, Entry, make_row
from dgrl.mlr.protocol import TABLES, describe, plan_split
from dgrl.parallel.shards import DEFAULT_BACKEND, Backend, map_shards
from dgrl.tables import ImageRow, count_keys, read_keys, read_rows, shards, write_shard
from pipeline.params import Params
from pipeline.paths import Paths
from pipeline.results import official_splits

logger = logging.getLogger(__name__)


def split(
    dataset: str,
    params: Params,
    workers: int | None = None,
    backend: Backend = DEFAULT_BACKEND,
) -> dict[str, int]:
    """Write ``data/<dataset>/mlr``, all of it or nothing.

    Returns:
        The number of images, persons and cameras, of images that are left out, and of those of each table.
    """
    paths = Paths(dataset)
    keys = {shard: read_keys(shard) for shard in shards(paths.images)}
    images = pd.concat(keys.values())
    plan = plan_split(images, dataset, params.mlr, official_splits(dataset))
    for note in plan.notes:
        logger.warning(note)
    jobs = [
        (shard, {name: plan.entries[name] for name in part.image_id if name in plan.entries})
        for shard, part in keys.items()
    ]
    how = params.mlr.degradation
    with atomic_folder(paths.split.parent) as building:
        folders = {table: building / table for table in TABLES}
        map_shards(
            partial(_split_shard, folders=folders, how=how),
            jobs,
            workers=workers,
            description=f"split {dataset}",
            backend=backend,
        )
        tables = {table: read_keys(folder) for table, folder in folders.items()}
        description = describe(plan, tables, dataset, params.mlr)
        (building / paths.split.name).write_text(json.dumps(description, indent=1) + "\n")
    left_out = {"left out": len(images) - len(plan.entries)}
    return count_keys(images) | left_out | {table: len(rows) for table, rows in tables.items()}


def _split_shard(
    job: tuple[Path, dict[str, tuple[Entry, ...]]], folders: Mapping[str, Path], how: Degradation
) -> None:
    """One shard of images, with its entries, to the shard of that name in each table, which may be empty."""
    shard, entries = job
    rows: dict[str, list[ImageRow]] = {table: [] for table in folders}
    for row in read_rows(shard):
        for entry in entries.get(row.image_id, ()):
            rows[entry.table].append(make_row(row, entry, how))
    for table, folder in folders.items():
        write_shard(folder / shard.name, rows[table])
