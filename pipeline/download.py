"""Stage download: a benchmark's archive, own images or the generator, to one table of images."""

import json
import logging
from pathlib import Path

from platformdirs import user_cache_path

from dgrl.datasets.catalog import KINDS
from dgrl.datasets.fetch import fetch
from dgrl.errors import InputError
from dgrl.files import atomic_file
from dgrl.tables import read_keys, summary, write_table
from pipeline.params import Params
from pipeline.paths import Paths, dropped, outside

logger = logging.getLogger(__name__)


def download(dataset: str, params: Params) -> None:
    """Write ``data/<dataset>/images``, with the official test persons of each trial where there are such."""
    source, paths = params.source_of(dataset), Paths(dataset)
    kind = KINDS[source.kind]
    archive = _archive(dataset, params) if kind.remote else Path()
    write_table(paths.images, kind.images(source, archive))
    logger.info("%s: %s", dataset, summary(read_keys(paths.images)))
    if kind.splits and (splits := kind.splits(source, archive)):
        with atomic_file(paths.official_splits) as file:
            file.write_text(json.dumps(splits, indent=1) + "\n")


def _archive(dataset: str, params: Params) -> Path:
    """The archive that params.yaml names, else the one in the drop folder, else one fetched from a mirror."""
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
    if found := dropped(source.kind):
        return found
    by_hand = f"put it into data/drop/ or set source.{dataset}.archive in params.yaml to it"
    if not remote.mirrors:
        raise InputError(
            f"{dataset} has no public mirror: ask for {remote.name} at {remote.page} and {by_hand}"
        )
    cache = params.runtime.cache
    try:
        return fetch(remote, user_cache_path("dgrl") if cache is None else Path(cache))
    except InputError as error:
        raise InputError(f"{error}; or get {remote.name} by hand ({remote.page}), and {by_hand}") from None
