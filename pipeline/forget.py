"""Remove a person from all that was written, and prove it by a search of every byte."""

import hashlib
import json
import logging
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgrl.errors import InputError
from dgrl.files import atomic_file
from pipeline.paths import Paths

if TYPE_CHECKING:  # they import pandas, which takes a second
    from dgrl.tables import ImageRow

DATA = Path("data")
CACHES = (Path(".dvc/cache"), Path(".work"))  # earlier versions, and what killed runs left

logger = logging.getLogger(__name__)


def forget(
    person: Annotated[str, typer.Argument(metavar="PERSON", help="A person_id, as the tables have it.")],
    dataset: Annotated[str | None, typer.Option(help="Whose person; its tables are in data/.")] = None,
    index: Annotated[list[Path] | None, typer.Option(help="Also an index; repeatable.")] = None,
) -> None:
    """Remove a person from the tables, the embeddings, the report and indexes.

    All bytes under data/ and in the indexes are searched for the person's images, thumbnails and embeddings
    afterwards; files that still hold one are named, and the command fails. The DVC cache is searched as well.
    """
    from dgrl.search.index import Index
    from dgrl.tables import read_rows, write_shard

    if dataset is None and not index:
        raise InputError("say where: --dataset NAME, or --index DIR")
    if dataset is not None and not Paths(dataset).root.is_dir():
        raise InputError(f"{Paths(dataset).root} does not exist; give a dataset whose stages have run")
    for folder in index or []:
        Index.load(folder)  # a wrong one is refused before anything is changed
    held = _images_of(person, Paths(dataset)) if dataset is not None else {}
    rows = [row for part in held.values() for row in part]
    traces = {trace for row in rows for trace in _traces(row)}
    for shard in held:  # a run that is killed is repeated: what to look for is still in the last ones
        write_shard(shard, [row for row in read_rows(shard) if row.person_id != person])
    if dataset is not None:
        traces |= _forget_in_results(person, Paths(dataset), {row.image_id for row in rows})
    for folder in index or []:
        traces |= _forget_in_index(person, folder, dataset, {row.data for row in rows})
    if not traces:
        raise InputError(f"nothing is known of the person {person!r}; give a person_id as the tables have it")
    logger.info("removed %d images of the person %s and their embeddings", len(rows), person)
    if dataset is not None:
        _say_what_is_left(person, Paths(dataset), traces)
    if found := list(holders(traces, [DATA, *(index or [])])):
        raise InputError(f"the person is still in {', '.join(map(str, found))}; take it out of there by hand")
    logger.info("no byte of them is left under %s", " or ".join(map(str, [DATA, *(index or [])])))


def holders(traces: Iterable[bytes], roots: Iterable[Path]) -> Iterator[Path]:
    """The files below ``roots`` that hold one of ``traces``, also packed in Parquet or zip files."""
    wanted = list(traces)
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file() and any(trace in part for part in _contents(path) for trace in wanted):
                yield path


def _contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and what it holds, unpacked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = path.read_bytes()
    yield data
    if data.startswith(b"PAR1"):
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, table.schema) as stream:
                    stream.write_table(table)
                yield sink.getvalue().to_pybytes()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield archive.read(name)


def _images_of(person: str, paths: Paths) -> "dict[Path, list[ImageRow]]":
    """The person's images by shard, those that others are made from last."""
    from dgrl.tables import read_keys, read_rows

    shards = [
        shard for shard in paths.root.rglob("part-*.parquet") if person in set(read_keys(shard).person_id)
    ]
    shards.sort(key=lambda shard: (paths.images in shard.parents, shard))
    return {shard: [row for row in read_rows(shard) if row.person_id == person] for shard in shards}


def _traces(row: "ImageRow") -> set[bytes]:
    """What tells an image wherever it lies: its bytes, its pixels' digest, its thumbnails in HTML."""
    from dgrl.report.render import SIDE, photo
    from dgrl.report.thumbnail import shrink
    from dgrl.search.sheet import thumbnail

    thumbnails = photo(shrink(row.pixels(), SIDE, SIDE)), thumbnail(row.data, row.image_id)
    return {row.data, row.pixel_sha256.encode(), *(uri.encode() for uri in thumbnails)}


def _forget_in_results(person: str, paths: Paths, image_ids: set[str]) -> set[bytes]:
    """Rewrite embeddings and descriptions, delete the report's pages and images; the embeddings gone."""
    for file in (paths.split, paths.official_splits):
        if file.exists():
            _forget_in_json(person, file, image_ids)
    for file in paths.eval.rglob("*"):
        if file.suffix in (".html", ".png", ".jpg"):
            file.unlink()
    return _forget_in_embeddings(person, paths.eval / "embeddings.parquet")


def _forget_in_embeddings(person: str, file: Path) -> set[bytes]:
    import numpy as np
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not file.exists():
        return set()
    table = pq.read_table(file)
    gone = pc.equal(table["person_id"], person)
    vectors = table.filter(gone)["embedding"].to_pylist()
    with atomic_file(file) as building:
        pq.write_table(table.filter(pc.invert(gone)), building)
    return {np.asarray(vector, np.float32).tobytes() for vector in vectors}


def _forget_in_json(person: str, file: Path, image_ids: set[str]) -> None:
    """Drop the person and its images by name; count and digest the tables beside the file anew."""
    from dgrl.mlr.protocol import table_digest
    from dgrl.tables import read_keys

    def without(value: Any) -> Any:
        if isinstance(value, list):
            return [without(each) for each in value if each != person]
        if isinstance(value, dict):
            return {key: without(each) for key, each in value.items() if key not in image_ids}
        return value

    content = without(json.loads(file.read_text()))
    for table in content.get("digests", {}) if isinstance(content, dict) else {}:
        keys = read_keys(file.parent / table)
        factors = dict(sorted(Counter(map(int, keys.factor)).items()))
        counts = {"images": len(keys), "persons": keys.person_id.nunique(), "factors": factors}
        content["counts"][table], content["digests"][table] = counts, table_digest(keys)
    with atomic_file(file) as building:
        building.write_text(json.dumps(content, indent=1) + "\n")


def _forget_in_index(person: str, folder: Path, dataset: str | None, images: set[bytes]) -> set[bytes]:
    """Remove the person's images, by name and by bytes; their embeddings."""
    from dgrl.search.index import Index, changing

    digests = {hashlib.sha256(data).hexdigest() for data in images}
    root = f"{Paths(dataset).root.resolve()}/" if dataset is not None else ""
    with changing(folder):
        index = Index.load(folder)
        named = (index.rows.person_id == person) & index.rows.image_path.str.startswith(root)
        gone = (named | index.rows.image_sha256.isin(digests)).to_numpy(bool)
        traces = {vector.tobytes() for vector in index.vectors[gone]}
        index.remove(gone)
        index.save(folder)
    return traces


def _say_what_is_left(person: str, paths: Paths, traces: set[bytes]) -> None:
    from dgrl.weights.published import trained_persons

    dataset = paths.dataset
    logger.info("the report is deleted; make it again: dvc commit --force --with-deps train@%s", dataset)
    logger.info("and then dvc repro --single-item evaluate@%s", dataset)
    if paths.model.exists() and f"{dataset}/{person}" in trained_persons(paths.model):
        logger.warning("%s has learned from the person; train again to have it forget", paths.model)
    if found := list(holders(traces, CACHES)):
        logger.warning(
            "earlier versions are still in %s; dvc gc --workspace deletes what this workspace does not use",
            ", ".join(map(str, found)),
        )
    logger.warning("the source of %s may have the person: take it out there, or download reads it", dataset)
