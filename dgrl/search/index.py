"""The index: one embedding per image, and what is known of the image, searched by cosine similarity.

An index is a folder of ``vectors.npy`` ([N, D] float32), ``rows.parquet`` (N rows of ``COLUMNS``),
``index.json`` (the kind, the model by its digest, and the digests of the other files) and, unless it is
exact, ``faiss.index``.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dgrl.config import Section
from dgrl.datasets.archive import require_readable
from dgrl.errors import InputError, one_line
from dgrl.extras import package
from dgrl.files import atomic_folder, beside, locked, sha256

Kind = Literal["exact", "hnsw", "ivf"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Vectors = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

COLUMNS = ("image_path", "person_id", "camera_id", "image_sha256", "resolution")
SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=name in ("person_id", "camera_id")) for name in COLUMNS]
)
HNSW_M, EF_CONSTRUCTION, EF_SEARCH = 32, 80, 128  # at a million vectors recall is over 0.95
VECTORS_PER_LIST = 39  # of IVF: with fewer training vectors a centroid faiss' k-means warns
PROBE_EVERY = 8  # of IVF: nprobe = lists / 8, rounded up
BLAS_QUERIES = 20  # faiss.knn multiplies matrices from so many queries on; fewer get a thread each
CHUNK = 1 << 16  # vectors in memory at once, to check their norms
NORM_TOLERANCE = 1e-3  # of a vector's L2 norm, which is 1
FAISS_FILE = "faiss.index"


class _Description(Section):
    """``index.json``."""

    model: str
    digest: str
    kind: Kind
    sha256: dict[str, str]  # of the other files


class Matches(NamedTuple):
    """The top K images of a query by cosine similarity, highest first; fewer where the index finds fewer.

    Args:
        rows: [K] row numbers of the index.
        similarity: [K] cosine similarities.
    """

    rows: npt.NDArray[np.int64]
    similarity: Vectors


@dataclass
class Index:
    """Embeddings of one model.

    Args:
        model: path of the network's file, to load it again.
        digest: SHA-256 that names the network (``Embedder.digest``); embeddings of another are refused.
        kind: exact; hnsw (a graph: fast, and nearly exact); ivf (inverted lists: in between).
        rows: N rows of ``COLUMNS``; an image_path occurs once; person_id and camera_id may be missing.
        vectors: [N, D] float32, L2-normalised; row i embeds the image of row i of ``rows``.
    """

    model: str
    digest: str
    kind: Kind
    rows: pd.DataFrame
    vectors: Vectors
    _faiss: Any = None  # built when needed; None again when rows are removed

    @classmethod
    def empty(cls, model: str, digest: str, kind: Kind = "exact") -> Self:
        """An index without images."""
        return cls(
            model, digest, kind, pd.DataFrame(columns=list(COLUMNS), dtype=str), np.empty((0, 0), "f4")
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open an index; its vectors, which are read to check them, stay on disk.

        Raises:
            InputError: if the folder is missing, damaged or no index.
        """
        file = folder / "index.json"
        if not file.exists():
            raise InputError(f"{folder} is no index (it has no index.json); dgrl index makes one")
        for each in filter(Path.is_file, folder.iterdir()):
            require_readable(each)
        try:
            described = _Description.parse(json.loads(file.read_text()), "", file.name)
            digests = {name: sha256(folder / name) for name in _files(described.kind)}
            if changed := [name for name, digest in digests.items() if described.sha256.get(name) != digest]:
                raise InputError(f"{changed[0]} is not as it was written")
        except (InputError, OSError, ValueError, RecursionError) as error:
            raise _damaged(folder, error) from None
        faiss = None if described.kind == "exact" else _import_faiss()
        try:  # the digests tell of damage, not of files that another program has made
            rows, vectors = _read_rows(folder / "rows.parquet"), _read_vectors(folder / "vectors.npy")
            index = faiss and faiss.read_index(str(folder / FAISS_FILE))
            if len(rows) != len(vectors) or (index and (index.ntotal, index.d) != vectors.shape):
                raise ValueError("its files differ in size")
        except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
            raise _damaged(folder, error) from None
        return cls(described.model, described.digest, described.kind, rows, vectors, index)

    def save(self, folder: Path) -> None:
        """Write the index, whole or not at all."""
        with atomic_folder(folder) as building:
            np.save(building / "vectors.npy", self.vectors)
            pq.write_table(
                pa.Table.from_pandas(self.rows, SCHEMA, preserve_index=False), building / "rows.parquet"
            )
            if self.kind != "exact":
                _import_faiss().write_index(self._built(), str(building / FAISS_FILE))
            digests = {name: sha256(building / name) for name in _files(self.kind)}
            described = {"model": self.model, "digest": self.digest, "kind": self.kind, "sha256": digests}
            (building / "index.json").write_text(json.dumps(described, indent=1) + "\n")

    def require(self, model: str, digest: str) -> None:
        """Refuse embeddings of another model.

        Raises:
            InputError: if the digest is not that of the index's model.
        """
        if digest != self.digest:
            raise InputError(
                f"the index is of the model {self.model} ({self.digest[:12]}), not of {model} "
                f"({digest[:12]}); use that model, or make another index"
            )

    def put(self, rows: pd.DataFrame, vectors: Vectors) -> None:
        """Add images; one whose image_path is there already takes the place of the old one.

        Args:
            rows: M rows of ``COLUMNS``.
            vectors: [M, D], of unit length, of this index's model.

        Raises:
            InputError: if a path occurs twice, or a vector has another dimension, is not finite or is not of
                unit length.
        """
        if (twice := rows.image_path[rows.image_path.duplicated()]).size:
            raise InputError(f"{twice.iloc[0]} is given twice; give each image once")
        if len(self.rows) and vectors.shape[1] != self.vectors.shape[1]:
            raise InputError(
                f"embeddings of {vectors.shape[1]} values for an index of {self.vectors.shape[1]}"
            )
        if not _are_unit(vectors):
            raise InputError("an embedding is not finite and of unit length; check the model's weights")
        self.remove(self.rows.image_path.isin(rows.image_path).to_numpy(bool))
        if not len(self.rows):
            self.rows, self.vectors = rows.reset_index(drop=True), np.ascontiguousarray(vectors, np.float32)
            return
        self.rows = pd.concat([self.rows, rows], ignore_index=True)
        self.vectors = np.concatenate([self.vectors, vectors])
        if self.kind == "hnsw" and self._faiss is not None:
            self._faiss.add(vectors)
        else:
            self._faiss = None

    def remove(self, removed: Mask) -> None:
        """Remove the rows where ``removed`` [N] bool is true: nothing of them stays in the index."""
        if removed.any():
            self.rows, self.vectors = self.rows[~removed].reset_index(drop=True), self.vectors[~removed]
            self._faiss = None

    def convert(self, kind: Kind) -> None:
        """Make it an index of another kind, of the same images."""
        if kind != self.kind:
            self.kind, self._faiss = kind, None

    def search(self, queries: Vectors, top: int) -> list[Matches]:
        """The nearest images of each query.

        Args:
            queries: [Q, D], of unit length, of this index's model.
            top: how many to find.

        Raises:
            InputError: if the queries have another dimension than the index.
        """
        if not len(self.rows) or not len(queries):
            return [Matches(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
        if queries.shape[1] != self.vectors.shape[1]:
            raise InputError(f"queries of {queries.shape[1]} values for an index of {self.vectors.shape[1]}")
        top = min(top, len(self.rows))
        if self.kind == "exact":
            similarity, rows = _nearest(np.ascontiguousarray(queries), self.vectors, top)
        else:
            similarity, rows = self._built().search(queries, top)
        return [
            Matches(found[found >= 0], values[found >= 0])  # -1: no more in the lists that were searched
            for found, values in zip(rows, similarity, strict=True)
        ]

    def _built(self) -> Any:
        if self._faiss is None:
            self._faiss = _build(self.kind, self.vectors)
        return self._faiss


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Keep other processes from changing the index in the meantime; they wait."""
    with locked(beside(folder, ".change"), f"waiting for another change of {folder}"):
        yield


def _are_unit(vectors: Vectors) -> bool:
    parts = (vectors[start : start + CHUNK] for start in range(0, len(vectors), CHUNK))
    with np.errstate(all="ignore"):
        return all((np.abs(np.linalg.norm(part, axis=1) - 1) < NORM_TOLERANCE).all() for part in parts)


def _files(kind: Kind) -> list[str]:
    """The files of an index beside ``index.json``."""
    return ["vectors.npy", "rows.parquet", *([] if kind == "exact" else [FAISS_FILE])]


def _damaged(folder: Path, problem: Exception) -> InputError:
    return InputError(f"{folder} is a damaged index ({one_line(problem)}); delete it and index again")


def _read_rows(file: Path) -> pd.DataFrame:
    table = pq.read_table(file)
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"{file.name} has other columns")
    rows: pd.DataFrame = table.to_pandas()
    if rows.image_path.duplicated().any():
        raise ValueError(f"{file.name} has an image twice")
    return rows


def _read_vectors(file: Path) -> Vectors:
    try:
        vectors = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the header is Python source to NumPy: a tokenizer's and a parser's errors
        raise ValueError(f"{file.name}: {error}") from None
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ValueError(f"{file.name} holds no [N, D] float32")
    if not _are_unit(vectors):
        raise ValueError("not all vectors are of unit length")
    return vectors


def _nearest(queries: Vectors, vectors: Vectors, top: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
    """Similarities and rows [Q, top]. Few queries are one product of NumPy, which uses all threads."""
    if len(queries) >= BLAS_QUERIES:
        faiss = _import_faiss()
        found: tuple[Vectors, npt.NDArray[np.int64]] = faiss.knn(
            queries, vectors, top, metric=faiss.METRIC_INNER_PRODUCT
        )
        return found
    similarity = queries @ vectors.T
    rows = np.argpartition(-similarity, top - 1, axis=1)[:, :top]
    found_similarity = np.take_along_axis(similarity, rows, 1)
    order = np.argsort(-found_similarity, axis=1, kind="stable")
    return np.take_along_axis(found_similarity, order, 1), np.take_along_axis(rows, order, 1)


def _build(kind: Kind, vectors: Vectors) -> Any:
    faiss = _import_faiss()
    count, dimension = vectors.shape
    product = faiss.METRIC_INNER_PRODUCT
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimension, HNSW_M, product)
        index.hnsw.efConstruction, index.hnsw.efSearch = EF_CONSTRUCTION, EF_SEARCH
    else:
        lists = max(1, min(int(4 * count**0.5), count // VECTORS_PER_LIST))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, lists, product)
        index.nprobe = -(-lists // PROBE_EVERY)
        index.cp.max_points_per_centroid = VECTORS_PER_LIST  # of k-means, which takes minutes of a million
        index.train(vectors)
    index.add(vectors)
    return index


def _import_faiss() -> Any:
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it says what it tries
    return package("faiss", "search", "searching")
