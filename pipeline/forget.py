"""Remove a person from all that was written, and prove it by a search of every byte."""

import hashlib
import json
import logging
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgrl.errors import InputError, one_line
from dgrl.files import atomic_file
from pipeline.inputs import inputs
from pipeline.paths import Paths
from pipeline.results import read_json

if TYPE_CHECKING:  # they import pandas, which takes a second
    from dgrl.search.index import Index, Mask
    from dgrl.tables import ImageRow

DATA = Path("data")
CACHE = Path(".dvc/cache")  # earlier versions

logger = logging.getLogger(__name__)


def forget(
    person: Annotated[str, typer.Argument(metavar="PERSON", help="A person_id, as the tables have it.")],
    dataset: Annotated[str | None, typer.Option(help="Whose person; its tables are in data/.")] = None,
    index: Annotated[
        list[Path] | None, typer.Option(help="Also an index outside of data/; repeatable.")
    ] = None,
) -> None:
    """Remove a person from the tables, the embeddings, the report and indexes, and keep them out.

    The person is added to forgotten/DATASET.json: no later download reads them from the source again. The
    report is deleted, as it shows people; evaluate makes it anew.

    All bytes under data/ and in the indexes are searched for the person's images, thumbnails and embeddings
    afterwards; files that still hold one are named, and the command fails. The DVC cache is searched as well.
    """
    from dgrl.search.index import Index
    from dgrl.tables import read_rows, write_shard

    if dataset is None and not index:
        raise InputError("say where: --dataset NAME, or --index DIR")
    if dataset is not None and not Paths(dataset).root.is_dir():
        raise InputError(f"{Paths(dataset).root} does not exist; give a dataset whose stages have run")
    paths = None if dataset is None else Paths(dataset)
    indexes = [*(index or []), *(_indexes_under_data() if paths else [])]
    held = _images_of(person, paths) if paths else {}
    rows = [row for part in held.values() for row in part]
    gone = partial(_gone, person=person, paths=paths, digests={_sha256(row.data) for row in rows})
    indexed = sum(int(gone(Index.load(folder)).sum()) for folder in indexes)  # a wrong one is refused at once
    if not rows and not indexed:
        raise InputError(f"nothing is known of the person {person!r}; give a person_id as the tables have it")
    images = {row.image_id for row in rows}
    traces = {trace for row in rows for trace in _traces(row)}
    # The tables last: until all else is done, a run that was killed can be repeated.
    if paths:
        _keep_out(person, paths)
        traces |= _forget_in_results(person, paths, images)
    files: list[str] = []
    for folder in indexes:
        vectors, still_there = _forget_in_index(folder, gone)
        traces |= vectors
        files += still_there
    for shard in held:
        write_shard(shard, [row for row in read_rows(shard) if row.person_id != person])
    logger.info(
        "removed %d images of the person %s, and %d embeddings in indexes", len(images), person, indexed
    )
    if files:
        logger.warning("delete these images too, or dgrl index adds them again: %s", ", ".join(files))
    if paths:
        _say_what_is_left(person, paths, traces)
    places = [DATA, *(index or [])]
    if found := list(holders(traces, places)):
        raise InputError(f"the person is still in {', '.join(map(str, found))}; take it out of there by hand")
    logger.info("no byte of them is left under %s", " or ".join(map(str, places)))


def holders(traces: Iterable[bytes], roots: Iterable[Path]) -> Iterator[Path]:
    """The files below ``roots`` that hold one of ``traces``, also packed in Parquet or zip files."""
    wanted = list(traces)
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file() and any(trace in part for part in _contents(path) for trace in wanted):
                yield path


def _contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and what it holds, unpacked."""
    data = path.read_bytes()
    yield data
    try:
        if data.startswith(b"PAR1"):
            yield from _row_groups(data)
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield archive.read(name)
    except Exception as error:  # damaged, encrypted, or by an unknown method: others' files raise anything
        logger.warning("%s cannot be unpacked (%s): only its packed bytes are searched", path, error)


def _row_groups(parquet: bytes) -> Iterator[bytes]:
    """The bytes of a Parquet file without its compression."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(parquet)) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            yield sink.getvalue().to_pybytes()


def _images_of(person: str, paths: Paths) -> "dict[Path, list[ImageRow]]":
    """The person's images by shard."""
    from dgrl.tables import read_keys, read_rows

    shards = [
        shard
        for shard in sorted(paths.root.rglob("part-*.parquet"))
        if person in set(read_keys(shard).person_id)
    ]
    return {shard: [row for row in read_rows(shard) if row.person_id == person] for shard in shards}


def _traces(row: "ImageRow") -> set[bytes]:
    """What tells an image wherever it lies: its bytes, its digests, its thumbnails in HTML."""
    from dgrl.report.render import SIDE, photo
    from dgrl.report.thumbnail import shrink
    from dgrl.search.blur import blur_faces
    from dgrl.search.sheet import thumbnail

    thumbnails = photo(shrink(row.pixels(), SIDE, SIDE)), thumbnail(row.data, row.image_id)
    links = [*thumbnails, *map(blur_faces, thumbnails)]
    return {row.data, *(text.encode() for text in (row.pixel_sha256, _sha256(row.data), *links))}


def _sha256(data: bytes) -> str:
    """As indexes and tables of embeddings name an image."""
    return hashlib.sha256(data).hexdigest()


def _keep_out(person: str, paths: Paths) -> None:
    """Add the person to those whom download leaves out."""
    from pipeline.results import forgotten_persons

    persons = sorted({*forgotten_persons(paths.dataset), person})
    with atomic_file(paths.forgotten) as building:
        building.write_text(json.dumps(persons, indent=1) + "\n", encoding="utf-8")
    if Path("params.yaml").exists():
        inputs(paths.dataset)  # which has the list's digest


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
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not file.exists():
        return set()
    try:
        table = pq.read_table(file)
        gone = pc.equal(table["person_id"], person)
        vectors = table.filter(gone)["embedding"].to_pylist()
    except (pa.ArrowException, LookupError) as error:
        raise InputError(f"{file} is damaged ({one_line(error)}); delete it and run forget again") from None
    with atomic_file(file) as building:
        pq.write_table(table.filter(pc.invert(gone)), building)
    return {np.asarray(vector, np.float32).tobytes() for vector in vectors}


def _forget_in_json(person: str, file: Path, image_ids: set[str]) -> None:
    """Drop the person and its images by name; count and digest the tables beside the file anew."""
    from dgrl.mlr.protocol import table_digest
    from dgrl.tables import read_keys

    gone = {person, *image_ids}

    def without(value: Any) -> Any:
        if isinstance(value, list):
            return [without(each) for each in value if not (isinstance(each, str) and each in gone)]
        if isinstance(value, dict):
            return {key: without(each) for key, each in value.items() if key not in image_ids}
        return value

    content = without(read_json(file, list if file.name == "splits.json" else dict))
    for table in content.get("digests", {}) if isinstance(content, dict) else {}:
        keys = read_keys(file.parent / table)
        keys = keys[keys.person_id != person]
        factors = dict(sorted(Counter(map(int, keys.factor)).items()))
        counts = {"images": len(keys), "persons": keys.person_id.nunique(), "factors": factors}
        content.setdefault("counts", {})[table] = counts
        content["digests"][table] = table_digest(keys)
    with atomic_file(file) as building:
        building.write_text(json.dumps(content, indent=1) + "\n")


def _indexes_under_data() -> list[Path]:
    return sorted(file.parent for file in DATA.rglob("index.json") if (file.parent / "vectors.npy").exists())


def _gone(index: "Index", *, person: str, paths: Paths | None, digests: set[str]) -> "Mask":
    """Which rows of an index show the person: by name, below the dataset's folder, or by their bytes."""
    root = "" if paths is None else f"{paths.root.resolve()}/"
    named = (index.rows.person_id == person) & index.rows.image_path.str.startswith(root)
    return (named | index.rows.image_sha256.isin(digests)).to_numpy(bool)


def _forget_in_index(folder: Path, gone: "Callable[[Index], Mask]") -> tuple[set[bytes], list[str]]:
    """Remove the person's images; their embeddings, and those of the images that are files."""
    from dgrl.search.index import Index, changing

    with changing(folder):
        index = Index.load(folder)
        rows = gone(index)
        traces = {vector.tobytes() for vector in index.vectors[rows]}
        files = [path for path in index.rows.image_path[rows] if Path(path).is_file()]
        if rows.any():
            index.remove(rows)
            index.save(folder)
    return traces, files


def _say_what_is_left(person: str, paths: Paths, traces: set[bytes]) -> None:
    from dgrl.weights.published import trained_persons

    dataset = paths.dataset
    logger.info("%s keeps the person out of further downloads; commit it to git", paths.forgotten)
    if paths.model.exists() and f"{dataset}/{person}" in trained_persons(paths.model):
        logger.warning("%s has learned from the person; dvc repro trains again without them", paths.model)
    logger.info(
        "no report shows the person: it was deleted, and dvc repro makes all that follows again. To keep the "
        "network, run before it: dvc commit --force --with-deps train@%s", dataset,
    )  # fmt: skip
    if found := list(holders(traces, [CACHE])):
        logger.warning(
            "earlier versions are still in %s; dvc gc --workspace deletes what this workspace does not use",
            ", ".join(map(str, found)),
        )
    left = [*sorted(Path(".work").glob(f"*-{dataset}-*")), *Path(".dvc/tmp").glob("exps")]
    if left:  # also decoded images, in which no digest is found
        logger.warning("killed and queued runs have left %s; delete it", ", ".join(map(str, left)))
    logger.warning("the source of %s may still have the person: take it out there too", dataset)
