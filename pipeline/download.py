"""Stage download: a benchmark's archive, own images or the generator, to one table of images."""

import json
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from dgrl.datasets.catalog import KINDS
from dgrl.datasets.fetch import fetch
from dgrl.datasets.pool import PoolParams
from dgrl.errors import InputError
from dgrl.files import atomic_folder
from dgrl.tables import count_keys, read_keys, write_table
from pipeline.params import Params
from pipeline.paths import Paths, dropped, located, outside
from pipeline.results import forgotten_persons


def download(dataset: str, params: Params) -> dict[str, int]:
    """Write ``data/<dataset>/images``, with the official test persons of each trial where there are such.

    Persons whom ``dgrl forget`` has removed are left out.

    Returns:
        The number of images, persons and cameras.
    """
    source, paths = located(params.source_of(dataset)), Paths(dataset)
    kind, forgotten = KINDS[source.kind], forgotten_persons(dataset)
    archive = _archive(source, f"source.{dataset}", params.runtime.cache)
    with kind.opened(archive) as opened, atomic_folder(paths.images) as building:
        rows = kind.images(source, opened)
        write_table(building, (row for row in rows if row.person_id not in forgotten))
        if kind.splits and (splits := kind.splits(source, opened)):
            splits = [[person for person in trial if person not in forgotten] for trial in splits]
            (building / paths.official_splits.name).write_text(json.dumps(splits, indent=1) + "\n")
    return count_keys(read_keys(paths.images))


def local_archive(source: Any, name: str) -> Path | None:
    """The archive that a section of params.yaml names, else the one in the drop folder.

    Args:
        source: the section.
        name: of the section, for the message.

    Returns:
        None if a mirror may have it, or if the kind has no archive.

    Raises:
        InputError: if the one that is named does not exist, or a person must ask for it.
    """
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
    found = dropped(source.kind)
    if found is None and not remote.mirrors:
        raise InputError(
            f"{source.kind} has no public mirror: ask for {remote.name} at {remote.page} and {_by_hand(name)}"
        )
    return found


def _archive(source: Any, name: str, cache: str | None) -> Any:
    """The archive, from a mirror if need be; of a pool, those of its sets by name."""
    if isinstance(source, PoolParams):
        return {part: _archive(each, f"{name}.sets.{part}", cache) for part, each in source.sets.items()}
    remote, found = KINDS[source.kind].remote, local_archive(source, name)
    if remote is None or found is not None:
        return found
    try:
        return fetch(remote, user_cache_path("dgrl") if cache is None else Path(cache))
    except InputError as error:
        by_hand = f"get {remote.name} by hand ({remote.page}), and {_by_hand(name)}"
        raise InputError(f"{error}; or {by_hand}") from None


def _by_hand(name: str) -> str:
    return f"put it into data/drop/ or set {name}.archive in params.yaml to it"
