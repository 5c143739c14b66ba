"""The image tables: Parquet shards with one row per image.

A table is a folder of ``part-00000.parquet``, ``part-00001.parquet``, ... whose names and bytes are a pure
function of the rows. The ``image`` column is the ``{bytes, path}`` struct of Hugging Face datasets'
``Image`` feature, so ``datasets.load_dataset("parquet", ...)``, pandas, polars and DuckDB open it.

Columns have one meaning everywhere:

====================  ==========================================================================
``image_id``          unique within a table; an LR or SR image carries the id of its HR twin; with LR
                      images of every factor, training images have one row of each
``person_id``         the benchmark's own name of the person
``camera_id``         the benchmark's own name of the camera
``subset``            the part of the benchmark that the image belongs to
``factor``            down-sampling factor r that made the image; 1 = untouched
``width, height``     in pixels
``pixel_sha256``      of the decoded RGB array (``dgrl.images.pixel_sha256``)
``image``             the encoded image, and its name in the source
====================  ==========================================================================
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dgrl.errors import InputError, MissingError, one_line
from dgrl.files import atomic_file, atomic_folder
from dgrl.images import Image, decode, encode_png, pixel_sha256
from dgrl.limits import limits

ROWS_PER_SHARD = 1024
BYTES_PER_SHARD = 256 * 2**20  # of encoded images; pyarrow reads no row group with 2 GiB of them
DISTRACTOR, JUNK = "distractor", "junk"  # subsets: gallery images of nobody; images to be ignored
QUERY = "query"  # subset: test images that a benchmark has as queries
KEYS = ["image_id", "person_id", "camera_id", "subset", "factor", "width", "height", "pixel_sha256"]

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FIELDS = [
    *[pa.field(name, pa.string(), nullable=False) for name in KEYS[:4]],
    pa.field("factor", pa.int8(), nullable=False),
    pa.field("width", pa.int32(), nullable=False),
    pa.field("height", pa.int32(), nullable=False),
    pa.field("pixel_sha256", pa.string(), nullable=False),
    pa.field("image", _IMAGE),  # nullable, or Hugging Face datasets cannot cast it to an image
]
_HUGGING_FACE = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}

_REMEDY = "delete the table and write it again"

IMAGES = pa.schema(_FIELDS, metadata=_HUGGING_FACE)


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image of a table, still encoded."""

    image_id: str
    person_id: str
    camera_id: str
    subset: str
    factor: int
    width: int
    height: int
    pixel_sha256: str
    data: bytes
    path: str

    @classmethod
    def from_pixels(
        cls,
        pixels: Image,
        path: str,
        *,
        image_id: str,
        person_id: str,
        camera_id: str,
        subset: str,
        factor: int,
        data: bytes | None = None,
    ) -> "ImageRow":
        """A row for decoded ``pixels``, kept as ``data`` if given, else encoded as PNG."""
        return cls(
            image_id=image_id,
            person_id=person_id,
            camera_id=camera_id,
            subset=subset,
            factor=factor,
            width=pixels.shape[1],
            height=pixels.shape[0],
            pixel_sha256=pixel_sha256(pixels),
            data=encode_png(pixels) if data is None else data,
            path=path,
        )

    def pixels(self) -> Image:
        """Decode the image, which may be as large as it was when it came into the table."""
        pixels = max(limits().image_pixels, self.width * self.height)
        return decode(self.data, f"{self.path} ({self.image_id})", pixels)


def write_table(folder: Path, rows: Iterable[ImageRow]) -> int:
    """Write ``rows`` as the shards of a table, all of them or none.

    A shard ends at ``ROWS_PER_SHARD`` rows or before ``BYTES_PER_SHARD`` of images are exceeded.

    Args:
        folder: the table; replaced if it exists.
        rows: consumed lazily, one shard and one row in memory at a time.

    Returns:
        The number of rows.
    """
    with atomic_folder(folder) as building:
        count = 0
        for index, shard in enumerate(_batches(rows)):
            write_shard(building / shard_name(index), shard)
            count += len(shard)
    return count


def write_shard(path: Path, rows: list[ImageRow]) -> None:
    """Write one Parquet file, whole or not at all; its row groups end where shards of a table would."""
    with (
        atomic_file(path) as building,
        pq.ParquetWriter(building, IMAGES, compression="zstd", write_page_checksum=True) as writer,
    ):
        for group in _batches(rows):
            columns: dict[str, list[object]] = {name: [getattr(row, name) for row in group] for name in KEYS}
            columns["image"] = [{"bytes": row.data, "path": row.path} for row in group]
            writer.write_table(pa.table(columns, schema=IMAGES))


def shard_name(index: int) -> str:
    """``part-00000.parquet`` for 0."""
    return f"part-{index:05d}.parquet"


def shards(folder: Path) -> list[Path]:
    """The Parquet files of a table, in row order.

    Raises:
        InputError: if the folder has none, or they have no rows.
    """
    found = sorted(folder.glob("part-*.parquet"))
    if not found:
        raise MissingError(f"{folder} holds no table; write it first")
    if not any(map(_row_count, found)):
        raise MissingError(f"{folder} has no rows; {_REMEDY}")
    return found


def read_rows(source: Path) -> Iterator[ImageRow]:
    """The rows of a table (a folder) or of one shard (a file), a row group in memory at a time."""
    for path in [source] if source.is_file() else shards(source):
        with _open(path) as file:
            for group in range(file.num_row_groups):
                for values in _whole(path, file.read_row_group(group)).to_pylist():
                    image = values.pop("image")
                    yield ImageRow(**values, data=image["bytes"], path=image["path"])


def read_keys(source: Path) -> pd.DataFrame:
    """Every column of a table (a folder) or of one shard (a file) but the images."""
    paths = [source] if source.is_file() else shards(source)
    parts: list[pd.DataFrame] = []
    for path in paths:
        with _open(path) as file:
            parts.append(_whole(path, file.read(KEYS)).to_pandas())
    return pd.concat(parts, ignore_index=True)


def count_keys(keys: pd.DataFrame) -> dict[str, int]:
    """The number of images, of persons (distractors and junk are of none) and of cameras."""
    shown = keys[~keys["subset"].isin([DISTRACTOR, JUNK])]
    return {
        "images": len(keys),
        "persons": shown["person_id"].nunique(),
        "cameras": keys["camera_id"].nunique(),
    }


@contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_schema(path, file.schema_arrow)
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:  # of the disk, not of the content
            raise InputError(f"{path} cannot be read ({os.strerror(error.errno)})") from None
        raise MissingError(f"{path} is no whole Parquet file ({one_line(error)}); {_REMEDY}") from None


def _row_count(path: Path) -> int:
    with _open(path) as file:
        count: int = file.metadata.num_rows
        return count


def _whole(path: Path, table: pa.Table) -> pa.Table:
    flat = table.flatten()  # the bytes and the path of an image, too
    for name in flat.column_names:
        if flat[name].null_count:
            raise MissingError(f"{path} has nulls in the column {name}; {_REMEDY}")
    return table


def _check_schema(path: Path, found: pa.Schema) -> None:
    for field in IMAGES:
        if field.name not in found.names:
            raise MissingError(f"{path} lacks the column {field.name}; {_REMEDY}")
    for name in found.names:
        if name not in IMAGES.names:
            raise MissingError(f"{path} has an unknown column {name}; {_REMEDY}")
        if found.names.count(name) > 1:
            raise MissingError(f"{path} has the column {name} twice; {_REMEDY}")
        kind, allowed = found.field(name).type, IMAGES.field(name).type
        if kind != allowed:
            raise MissingError(f"{path}: the column {name} is {kind}, not {allowed}; {_REMEDY}")


def _batches(rows: Iterable[ImageRow]) -> Iterator[list[ImageRow]]:
    batch: list[ImageRow] = []
    size = 0  # bytes
    for row in rows:
        if batch and (len(batch) == ROWS_PER_SHARD or size + len(row.data) > BYTES_PER_SHARD):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row.data)
    if batch:
        yield batch
