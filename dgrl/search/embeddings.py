"""Images to rows of an index, and the table of them that other programs read."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dgrl.embedders.embedder import Embedder
from dgrl.embedders.protocol import Resolution
from dgrl.files import atomic_file
from dgrl.images import Image
from dgrl.search.index import COLUMNS, SCHEMA, Index, Mask, Vectors
from dgrl.search.sources import IN_TABLE, Source, sources


class Changes(NamedTuple):
    """What ``update`` did, in images; ``resolutions`` are of those that it embedded."""

    added: int
    changed: int
    removed: int
    resolutions: list[Resolution]


def update(index: Index, folder: Path, embedder: Embedder, pattern: str | None = None) -> Changes:
    """Make what the index has of a folder its present images; those of other folders stay.

    New images and those whose bytes have changed are embedded; those that are gone are removed. What is known
    of persons and cameras is renewed.

    Args:
        index: of the embedder's model.
        folder: see ``sources``.
        embedder: of the index's model.
        pattern: see ``sources``.

    Raises:
        InputError: naming what is wrong; then the index is as it was.
    """
    known = dict(zip(index.rows.image_path, index.rows.image_sha256, strict=True))
    ids: dict[str, tuple[str | None, str | None]] = {}

    def is_new(source: Source) -> bool:
        ids[source.image_path] = source.person_id, source.camera_id
        return known.get(source.image_path) != source.sha256

    rows, vectors = embed_sources(embedder, filter(is_new, sources([folder], pattern)))
    gone = _inside(index, folder) & ~index.rows.image_path.isin(ids).to_numpy(bool)
    index.remove(gone)
    if len(rows):
        index.put(rows, vectors)
    for place, column in enumerate(("person_id", "camera_id")):
        values = zip(index.rows.image_path, index.rows[column], strict=True)
        index.rows[column] = [ids[path][place] if path in ids else value for path, value in values]
    changed = len(known.keys() & set(rows.image_path))
    return Changes(len(rows) - changed, changed, int(gone.sum()), list(rows.resolution))


def remove_all(index: Index, path: Path) -> int:
    """Remove the images of a folder or table, or an image, whether or not it exists; how many there were."""
    gone = _inside(index, path)
    index.remove(gone)
    return int(gone.sum())


def _inside(index: Index, path: Path) -> Mask:
    root = str(path.resolve())

    def is_inside(name: str) -> bool:
        if name.startswith(f"{root}{IN_TABLE}"):
            return not Path(name).is_file()  # of a file the sign is a part of its name
        return name == root or name.startswith(f"{root}/")

    return np.array([is_inside(name) for name in index.rows.image_path], bool)


def embed_sources(embedder: Embedder, images: Iterable[Source]) -> tuple[pd.DataFrame, Vectors]:
    """Rows of an index and their embeddings [N, D]; few images are in memory at once.

    Raises:
        InputError: naming the image that is none.
    """
    known: list[tuple[str, str | None, str | None, str]] = []

    def pixels() -> Iterator[Image]:
        for each in images:
            known.append((each.image_path, each.person_id, each.camera_id, each.sha256))
            yield each.pixels()

    vectors, resolutions = embedder.embed_images(pixels())
    rows = [(*values, resolution) for values, resolution in zip(known, resolutions, strict=True)]
    return pd.DataFrame(rows, columns=list(COLUMNS)), vectors


def write_embeddings(path: Path, rows: pd.DataFrame, vectors: Vectors, model: str, digest: str) -> None:
    """Write a Parquet file of the rows and a column ``embedding``; its metadata name the model by digest."""
    table = pa.Table.from_pandas(rows, SCHEMA, preserve_index=False)
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), max(vectors.shape[1], 1))
    table = table.append_column("embedding", values)
    table = table.replace_schema_metadata({"dgrl.model": model, "dgrl.model_sha256": digest})
    with atomic_file(path) as building:
        pq.write_table(table, building, compression="zstd")
