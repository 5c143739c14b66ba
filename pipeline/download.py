"""Stage download: a benchmark's archive, or the generator, to one table of images."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from platformdirs import user_cache_path

from dgrl.datasets import caviar, cuhk03, folder, market1501, synthetic, viper
from dgrl.datasets.fetch import fetch
from dgrl.datasets.sources import SOURCES
from dgrl.errors import InputError
from dgrl.files import atomic_file
from dgrl.tables import ImageRow, write_table
from pipeline.params import DatasetName, Params, SourceParams
from pipeline.paths import DROP, Paths


def download(dataset: DatasetName, params: Params) -> None:
    """Write ``data/<dataset>/images``, with the official test persons of each trial where there are such."""
    source, paths = params.source, Paths(dataset)
    if dataset == "synthetic":
        write_table(paths.images, synthetic.images(source.synthetic))
    elif dataset == "folder":
        write_table(paths.images, folder.images(source.folder))
    elif dataset == "viper":
        write_table(paths.images, viper.images(_archive(dataset, source)))
    elif dataset == "caviar":
        write_table(paths.images, caviar.images(_archive(dataset, source)))
    elif dataset == "market1501":
        write_table(paths.images, market1501.images(_archive(dataset, source), source.market1501.parts))
    elif dataset == "cuhk03":
        _cuhk03(_archive(dataset, source), source.cuhk03, paths)


def _cuhk03(archive: Path, params: cuhk03.Cuhk03Params, paths: Paths) -> None:
    images = cuhk03.images(archive, params.boxes, merge_cameras=params.merge_cameras)
    if params.new_protocol is not None:
        subsets = cuhk03.new_protocol_split(Path(params.new_protocol), params.boxes)
        write_table(paths.images, _with_subsets(images, subsets))
        return
    splits = cuhk03.official_splits(archive)
    write_table(paths.images, images)
    with atomic_file(paths.official_splits) as file:
        file.write_text(json.dumps(splits, indent=1) + "\n")


def _with_subsets(images: Iterator[ImageRow], subsets: dict[str, cuhk03.Subset]) -> Iterator[ImageRow]:
    """The new protocol's training persons and test persons; MLR has queries and galleries of its own."""
    for row in images:
        yield replace(row, subset="train" if subsets[row.image_id] == "train" else "test")


def _archive(dataset: DatasetName, source: SourceParams) -> Path:
    """The archive that params.yaml names, else the one in the drop folder, else one fetched from a mirror."""
    remote, path = SOURCES[dataset], getattr(source, dataset).archive
    if path is not None:
        if not Path(path).exists():
            raise InputError(
                f"params.yaml: source.{dataset}.archive = {path!r} does not exist; correct the path, or set "
                f"it to null and put {remote.name} into {DROP}/"
            )
        return Path(path)
    prefix = remote.name.lower()[:4]
    if found := sorted(entry for entry in DROP.glob("*") if entry.name.lower().startswith(prefix)):
        return found[0]
    if not remote.mirrors:
        raise InputError(
            f"{dataset} has no public mirror: ask for {remote.name} at {remote.page} and put it into {DROP}/ "
            f"or set source.{dataset}.archive in params.yaml to it"
        )
    cache = user_cache_path("dgrl") if source.cache is None else Path(source.cache)
    try:
        return fetch(remote, cache)
    except InputError as error:
        raise InputError(
            f"{error}; or get {remote.name} by hand ({remote.page}), and put it into {DROP}/ or set "
            f"source.{dataset}.archive in params.yaml to it"
        ) from None
