"""The index beside brute force, its changes beside a dictionary, its files whole or refused."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_archive import unprivileged

from dgrl.errors import InputError
from dgrl.random import named_generator
from dgrl.search.index import COLUMNS, KINDS, Index, Kind, Vectors

pytest.importorskip("faiss")


def unit(values: np.ndarray) -> Vectors:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def random_vectors(*names: str | int, count: int, dimension: int = 8) -> Vectors:
    return unit(named_generator("index", *names).normal(size=(count, dimension)))


def rows_of(paths: list[str]) -> pd.DataFrame:
    values = [(path, f"person {path[0]}", None, path * 4, "hr") for path in paths]
    return pd.DataFrame(values, columns=list(COLUMNS))


def index_of(vectors: Vectors, kind: Kind = "exact") -> Index:
    index = Index.empty("network", "d" * 64, kind)
    index.put(rows_of([f"{number}.png" for number in range(len(vectors))]), vectors)
    return index


values = st.floats(0.125, 1, width=32) | st.floats(-1, -0.125, width=32)
shapes = st.tuples(st.integers(1, 30), st.integers(1, 12))


@settings(deadline=None, max_examples=50)
@given(data=st.data(), shape=shapes, top=st.integers(1, 40))
def test_search_is_brute_force(data: st.DataObject, shape: tuple[int, int], top: int) -> None:
    gallery = unit(data.draw(hnp.arrays(np.float32, shape, elements=values)))
    queries = unit(data.draw(hnp.arrays(np.float32, (3, shape[1]), elements=values)))
    found = index_of(gallery).search(queries, top)
    for query, matches in zip(queries.astype(np.float64), found, strict=True):
        similarity = [sum(a * b for a, b in zip(query, image, strict=True)) for image in gallery]
        expected = sorted(similarity, reverse=True)[:top]
        np.testing.assert_allclose(matches.similarity, expected, atol=2e-6)
        assert len(set(matches.rows.tolist())) == len(expected)  # of equals any may come
        np.testing.assert_allclose([similarity[row] for row in matches.rows], expected, atol=2e-6)


@pytest.mark.parametrize("count", [3, 1000])
def test_any_number_of_queries_finds_the_same(count: int) -> None:
    pytest.importorskip("faiss")
    gallery, queries = random_vectors("gallery", count=count), random_vectors("queries", count=40)
    index = index_of(gallery)
    expected = queries.astype(float) @ gallery.astype(float).T
    for some in (queries, queries[:3], queries[:1]):
        for similarity, matches in zip(expected, index.search(some, 10), strict=False):
            assert matches.rows.tolist() == np.argsort(-similarity)[:10].tolist()


changes = st.lists(st.tuples(st.booleans(), st.sets(st.sampled_from("abcdefgh"), min_size=1)), max_size=12)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=20)
@given(steps=changes)
def test_images_added_replaced_and_removed_are_those_of_a_dictionary(
    kind: Kind, steps: list[tuple[bool, set[str]]]
) -> None:
    index = Index.empty("network", "d" * 64, kind)
    expected: dict[str, Vectors] = {}
    for number, (adds, names) in enumerate(steps):
        paths = sorted(names)
        if adds:
            vectors = random_vectors(number, count=len(paths))
            index.put(rows_of(paths), vectors)
            expected |= dict(zip(paths, vectors, strict=True))
        else:
            index.remove(index.rows.image_path.isin(paths).to_numpy(bool))
            expected = {path: vector for path, vector in expected.items() if path not in names}
        (matches,) = index.search(random_vectors("query", count=1), 100)
        assert set(index.rows.image_path[matches.rows]) == set(expected)
    for path, vector in expected.items():
        (matches,) = index.search(vector[None], 1)
        assert index.rows.image_path[matches.rows[0]] == path


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_image_is_never_found_again(kind: Kind, tmp_path: Path) -> None:
    vectors = random_vectors(kind, count=200)
    index = index_of(vectors, kind)
    index.save(tmp_path / "index")
    index = Index.load(tmp_path / "index")
    gone = np.arange(200) % 3 == 0
    index.remove(gone)
    index.save(tmp_path / "index")
    again = Index.load(tmp_path / "index")
    for matches in again.search(vectors[gone], 200):
        assert not {f"{number}.png" for number in np.flatnonzero(gone)} & set(
            again.rows.image_path[matches.rows]
        )
    everything = b"".join(path.read_bytes() for path in (tmp_path / "index").rglob("*"))
    assert all(vector.tobytes() not in everything for vector in vectors[gone])
    assert vectors[1].tobytes() in everything


@pytest.mark.parametrize("kind", KINDS)
def test_a_reloaded_index_answers_alike(kind: Kind, tmp_path: Path) -> None:
    vectors, queries = random_vectors(kind, count=500), random_vectors("queries", count=20)
    index = index_of(vectors, kind)
    index.save(tmp_path / "index")
    again = Index.load(tmp_path / "index")
    assert (
        again.rows.fillna("unknown").to_numpy().tolist() == index.rows.fillna("unknown").to_numpy().tolist()
    )
    for before, after in zip(index.search(queries, 10), again.search(queries, 10), strict=True):
        assert before.rows.tolist() == after.rows.tolist()
        assert before.similarity.tobytes() == after.similarity.tobytes()


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_approximate_index_finds_most(kind: Kind) -> None:
    vectors, queries = (
        random_vectors(name, count=count, dimension=16) for name, count in (("v", 3000), ("q", 100))
    )
    exact = index_of(vectors).search(queries, 10)
    found = index_of(vectors, kind).search(queries, 10)
    hits = [len({*a.rows.tolist()} & {*b.rows.tolist()}) for a, b in zip(exact, found, strict=True)]
    assert sum(hits) / 1000 > 0.7


def test_an_empty_index(tmp_path: Path) -> None:
    Index.empty("network", "d").save(tmp_path / "index")
    index = Index.load(tmp_path / "index")
    (matches,) = index.search(random_vectors("query", count=1), 5)
    assert len(matches.rows) == 0
    assert index.search(random_vectors("query", count=0), 5) == []


def test_another_models_embeddings_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"of the model network \(dddddddddddd\), not of other \(eeeeeeeeeeee\)"
    ):
        index_of(random_vectors(count=3)).require("other", "e" * 64)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (random_vectors(count=1, dimension=5), "embeddings of 5 values for an index of 8"),
        (np.full((1, 8), np.nan, np.float32), "not finite"),
        (random_vectors(count=2), "a is given twice"),
    ],
)
def test_what_does_not_fit_is_refused(vectors: Vectors, said: str) -> None:
    index = index_of(random_vectors(count=3))
    with pytest.raises(InputError, match=said):
        index.put(rows_of(["a"] * len(vectors)), vectors)
    assert len(index.rows) == len(index.vectors) == 3


@pytest.mark.parametrize("file", ["vectors.npy", "rows.parquet", "index.json", "faiss.index"])
@pytest.mark.parametrize("damage", ["cut", "gone", "noise"])
def test_a_damaged_index_is_refused(tmp_path: Path, file: str, damage: str) -> None:
    folder = tmp_path / "index"
    index_of(random_vectors(count=50), "hnsw").save(folder)
    data = (folder / file).read_bytes()
    (folder / file).unlink()
    if damage != "gone":
        (folder / file).write_bytes(data[: len(data) // 2] if damage == "cut" else b"noise" * 100)
    with pytest.raises(InputError, match=r"(index again|makes one)$"):
        Index.load(folder)


@pytest.mark.parametrize("file", ["vectors.npy", "rows.parquet", "faiss.index"])
def test_a_changed_bit_is_noticed(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "index"
    index_of(random_vectors(count=50), "hnsw").save(folder)
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    with pytest.raises(InputError, match=f"{file} is not as it was written.*index again$"):
        Index.load(folder)


@pytest.mark.parametrize("file", ["vectors.npy", "rows.parquet", "faiss.index"])
def test_a_file_of_another_index_is_refused(tmp_path: Path, file: str) -> None:
    for name, count in (("a", 40), ("b", 41)):
        index_of(random_vectors(count=count), "hnsw").save(tmp_path / name)
    (tmp_path / "a" / file).write_bytes((tmp_path / "b" / file).read_bytes())
    with pytest.raises(InputError, match=f"{file} is not as it was written"):
        Index.load(tmp_path / "a")


def sign(folder: Path) -> None:
    """Write the digests of an index anew, as a program would that makes indexes of its own."""
    described = json.loads((folder / "index.json").read_text())
    described["sha256"] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in described["sha256"]
    }
    (folder / "index.json").write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("image_path", "0.png", "an image twice"),
        ("image_path", None, "other columns"),
        ("resolution", 5, "other columns"),
        ("other", "x", "other columns"),
    ],
)
def test_rows_that_are_none_of_an_index(tmp_path: Path, column: str, value: object, said: str) -> None:
    folder = tmp_path / "index"
    index_of(random_vectors(count=3)).save(folder)
    table = pq.read_table(folder / "rows.parquet")
    array = pa.array([value] * 3, pa.int64() if value == 5 else pa.string())
    field = pa.field(column, array.type, nullable=value is None)
    place = table.schema.get_field_index(column)
    changed = table.append_column(field, array) if place < 0 else table.set_column(place, field, array)
    pq.write_table(changed, folder / "rows.parquet")
    sign(folder)
    with pytest.raises(InputError, match=f"{said}.*index again$"):
        Index.load(folder)


def test_files_of_two_indexes_are_refused(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 4)):
        index_of(random_vectors(count=count)).save(tmp_path / name)
    (tmp_path / "a/vectors.npy").write_bytes((tmp_path / "b/vectors.npy").read_bytes())
    sign(tmp_path / "a")
    with pytest.raises(InputError, match="its files differ in size"):
        Index.load(tmp_path / "a")


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_the_graph_of_another_index_is_refused(tmp_path: Path, kind: Kind) -> None:
    for name, count, dimension in (("a", 40, 8), ("b", 41, 8), ("c", 40, 9)):
        index_of(random_vectors(count=count, dimension=dimension), kind).save(tmp_path / name)
    for name in "bc":
        (tmp_path / "a/faiss.index").write_bytes((tmp_path / name / "faiss.index").read_bytes())
        sign(tmp_path / "a")
        with pytest.raises(InputError, match="its files differ in size"):
            Index.load(tmp_path / "a")


def test_files_of_another_kind(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index_of(random_vectors(count=3)).save(folder)
    with (folder / "vectors.npy").open("wb") as file:
        np.savez(file, vectors=np.zeros((3, 8)))
    sign(folder)
    with pytest.raises(InputError, match=r"vectors\.npy holds no \[N, D\] float32"):
        Index.load(folder)
    for value in (np.nan, 0.0, 1e30):
        vectors = random_vectors(count=3)
        vectors[1, 2:] = value
        np.save(folder / "vectors.npy", vectors)
        sign(folder)
        with pytest.raises(InputError, match="not all vectors are of unit length"):
            Index.load(folder)


def test_a_description_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index_of(random_vectors(count=3)).save(folder)
    for text in ("[" * 100_000, "{}", '{"model": "network", "digest": "d", "kind": "exact"}'):
        (folder / "index.json").write_text(text)
        with pytest.raises(InputError, match=r"is a damaged index \(.*index again$"):
            Index.load(folder)


def test_the_folder_says_whose_it_is(tmp_path: Path) -> None:
    index_of(random_vectors(count=3)).save(tmp_path / "index")
    described = json.loads((tmp_path / "index/index.json").read_text())
    files = {name: (tmp_path / "index" / name).read_bytes() for name in ("vectors.npy", "rows.parquet")}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert described == {"model": "network", "digest": "d" * 64, "kind": "exact", "sha256": digests}


def test_an_index_that_may_not_be_read_is_not_called_damaged() -> None:
    with unprivileged() as home:
        index_of(random_vectors(count=3)).save(home / "index")
        for name in ("index.json", "rows.parquet", "vectors.npy"):
            (home / "index" / name).chmod(0)
            with pytest.raises(
                InputError, match=rf"{name} cannot be read \(Permission denied\); give yourself the right"
            ):
                Index.load(home / "index")
            (home / "index" / name).chmod(0o600)
