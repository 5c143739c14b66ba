"""Stage download: a benchmark's archive, own images or the generator, to one table of images."""

import json
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from dgrl.datasets.catalog import KINDS
from dgrl.datasets.fetch import fetch
from dgrl.datasets.pool import PoolParams
from dgrl.errors import InputError
from dgrl.files import atomic_file
from dgrl.tables import count_keys, read_keys, write_table
from pipeline.params import Params
from pipeline.paths import Paths, dropped, outside


def download(dataset: str, params: Params) -> dict[str, int]:
    """Write ``data/<dataset>/images``, with the official test persons of each trial where there are such.

    Returns:
        The number of images, persons and cameras.
    """
    source, paths = params.source_of(dataset), Paths(dataset)
    kind = KINDS[source.kind]
    archive = _archive(source, f"source.{dataset}", params.runtime.cache)
    write_table(paths.images, kind.images(source, archive))
    if kind.splits and (splits := kind.splits(source, archive)):
        with atomic_file(paths.official_splits) as file:
            file.write_text(json.dumps(splits, indent=1) + "\n")
    return count_keys(read_keys(paths.images))


def _archive(source: Any, name: str, cache: str | None) -> Any:
    """The archive that params.yaml names, else the one in the drop folder, else one fetched from a mirror.

    Of a pool, those of its sets by name; of another kind without an archive, nothing.
    """
    if isinstance(source, PoolParams):
        return {part: _archive(each, f"{name}.sets.{part}", cache) for part, each in source.sets.items()}
    remote = KINDS[source.kind].remote
    if remote is None:
        return None
    if (named := source.archive) is not None:
        if not (path := outside(named)).exists():
            raise InputError(
                f"params.yaml: {name}.archive = {named!r} does not exist; correct the path, or set "
                f"it to null and put {remote.name} into data/drop/"
            )
        return path
    if found := dropped(source.kind):
        return found
    by_hand = f"put it into data/drop/ or set {name}.archive in params.yaml to it"
    if not remote.mirrors:
        raise InputError(
            f"{source.kind} has no public mirror: ask for {remote.name} at {remote.page} and {by_hand}"
        )
    try:
        return fetch(remote, user_cache_path("dgrl") if cache is None else Path(cache))
    except InputError as error:
        raise InputError(f"{error}; or get {remote.name} by hand ({remote.page}), and {by_hand}") from None
