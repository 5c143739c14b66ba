"""Stage download: a benchmark's archive, own images or the generator, to one table of images."""

import json
from pathlib import Path

from platformdirs import user_cache_path

from dgrl.datasets.catalog import KINDS
from dgrl.datasets.fetch import fetch
from dgrl.errors import InputError
from dgrl.files import atomic_file
from dgrl.tables import write_table
from pipeline.params import Params
from pipeline.paths import Paths, dropped, located, outside


def download(dataset: str, params: Params) -> None:
    """Write ``data/<dataset>/images``, with the official test persons of each trial where there are such."""
    source, paths = located(params.source_of(dataset)), Paths(dataset)
    kind = KINDS[source.kind]
    archive = local_archive(dataset, params) or _fetched(dataset, params) if kind.remote else Path()
    write_table(paths.images, kind.images(source, archive))
    if kind.splits and (splits := kind.splits(source, archive)):
        with atomic_file(paths.official_splits) as file:
            file.write_text(json.dumps(splits, indent=1) + "\n")


def local_archive(dataset: str, params: Params) -> Path | None:
    """The archive that params.yaml names, else the one in the drop folder; None if a mirror may have it.

    Raises:
        InputError: if the one that is named does not exist, or a person must ask for it.
    """
    source = params.source_of(dataset)
    remote = KINDS[source.kind].remote
    assert remote is not None
    if (named := source.archive) is not None:
        if not (path := outside(named)).exists():
            raise InputError(
                f"params.yaml: source.{dataset}.archive = {named!r} does not exist; correct the path, or set "
                f"it to null and put {remote.name} into data/drop/"
            )
        return path
    found = dropped(source.kind)
    if found is None and not remote.mirrors:
        raise InputError(
            f"{dataset} has no public mirror: ask for {remote.name} at {remote.page} and {_by_hand(dataset)}"
        )
    return found


def _fetched(dataset: str, params: Params) -> Path:
    remote = KINDS[params.source_of(dataset).kind].remote
    assert remote is not None
    cache = params.runtime.cache
    try:
        return fetch(remote, user_cache_path("dgrl") if cache is None else Path(cache))
    except InputError as error:
        by_hand = f"get {remote.name} by hand ({remote.page}), and {_by_hand(dataset)}"
        raise InputError(f"{error}; or {by_hand}") from None


def _by_hand(dataset: str) -> str:
    return f"put it into data/drop/ or set source.{dataset}.archive in params.yaml to it"
