"""Stage split: the images to the MLR training, query and gallery tables."""

import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from dgrl.files import atomic_file
from dgrl.mlr import TABLES, Entry, describe, make_row, plan_split
from dgrl.processes import map_shards
from dgrl.tables import ImageRow, read_keys, read_rows, shards, write_shard
from pipeline.params import DatasetName, Params
from pipeline.paths import Paths


def split(dataset: DatasetName, params: Params, workers: int | None = None) -> dict[str, int]:
    """Write ``data/<dataset>/mlr``; returns the number of images of each table."""
    paths = Paths(dataset)
    keys = read_keys(paths.images)
    official = json.loads(paths.official_splits.read_text()) if paths.official_splits.exists() else ()
    plan = plan_split(keys, dataset, params.mlr, official)
    building = {table: paths.mlr(f".{table}.tmp") for table in TABLES}
    try:
        map_shards(
            partial(_split_shard, entries=plan.entries, folders=building),
            shards(paths.images),
            workers=workers,
            description=f"split {dataset}",
        )
        tables = {table: read_keys(folder) for table, folder in building.items()}
        for table, folder in building.items():
            shutil.rmtree(paths.mlr(table), ignore_errors=True)
            folder.rename(paths.mlr(table))
    finally:
        for folder in building.values():
            shutil.rmtree(folder, ignore_errors=True)
    with atomic_file(paths.split) as file:
        file.write_text(json.dumps(describe(plan, tables, dataset, params.mlr), indent=1) + "\n")
    return {table: len(keys) for table, keys in tables.items()}


def _split_shard(shard: Path, entries: Mapping[str, tuple[Entry, ...]], folders: Mapping[str, Path]) -> None:
    """One shard of images to the shard of the same name in each table, which may be empty."""
    rows: dict[str, list[ImageRow]] = {table: [] for table in folders}
    for row in read_rows(shard):
        for entry in entries.get(row.image_id, ()):
            rows[entry.table].append(make_row(row, entry))
    for table, folder in folders.items():
        write_shard(folder / shard.name, rows[table])
