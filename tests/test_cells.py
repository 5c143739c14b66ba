"""Tables that people write: read as text, or refused in a line that names the row."""

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgrl.datasets import cells
from dgrl.datasets.cells import read_cells
from dgrl.errors import InputError
from dgrl.limits import Limits, use


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_cells(path)
    return str(caught.value).removeprefix(f"{path}")


def test_cells_are_text(tmp_path: Path) -> None:
    columns = {
        "A ": ["x ", None],
        "b": [1.0, 2.5],
        "c": [7, None],
        "d": pa.array(["k", "k"]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert read_cells(tmp_path / "t.parquet") == (
        ["a", "b", "c", "d"],
        [["x", "1", "7", "k"], ["", "2.5", "", "k"]],
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b,A\n1,2,3\n", " has the column a 2 times; keep one"),
        ("a;b\n1;2;3\n", ": row 1 below the header has 3 cells for 2 columns; correct it"),
        ('a,b\n"1,2\n', " is no readable table (unexpected end of data); write it anew"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    assert refused(tmp_path / "t.csv").startswith(said)


def test_a_line_of_csv_takes_no_more_memory_than_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "LINE", 100)
    for content in ("x" * 101, f"a,b\n{'x' * 200}\n"):
        (tmp_path / "t.csv").write_text(content)
        assert "a line has 100 characters or more" in refused(tmp_path / "t.csv")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**31 - 1], pa.int32()).cast(pa.date32()),  # a day that Python does not have
        pa.array([2**62], pa.timestamp("us")),
        pa.array([datetime.timedelta(1)]),
        pa.array([[1]]),
        pa.array([b"1"]),
    ],
    ids=str,
)
def test_a_column_of_another_type(tmp_path: Path, column: Any) -> None:
    pq.write_table(pa.table({"a": column}), tmp_path / "t.parquet")
    assert refused(tmp_path / "t.parquet")


def test_a_few_bytes_of_parquet_that_stand_for_many(tmp_path: Path) -> None:
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 300_000, pa.int32()), ["x" * 20_000])
    pq.write_table(pa.table({"a": text}), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 10_000
    assert "a cell has more than 10000 characters" in refused(tmp_path / "t.parquet")
    use(Limits(file_bytes=1000))
    try:
        assert "bytes, more than the limit of 1000" in refused(tmp_path / "t.parquet")
    finally:
        use(Limits())


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").mkdir()
    assert refused(tmp_path / "t.parquet") == " cannot be read (Is a directory); correct the path"


def test_a_path_that_no_system_has(tmp_path: Path) -> None:
    assert "null byte" in refused(tmp_path / "t\0.csv")
