"""Tables that are damaged, empty or of another schema: one line that names the file and what is wrong."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_tables import rows

from dgrl.errors import InputError
from dgrl.tables import IMAGES, read_keys, read_rows, shard_name, shards, write_shard, write_table

READ = [read_keys, lambda folder: list(read_rows(folder))]


@pytest.mark.parametrize("read", [shards, *READ])
def test_a_table_without_rows_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    for index in range(2):
        write_shard(tmp_path / shard_name(index), [])
    with pytest.raises(InputError, match=f"^{tmp_path} has no rows; delete the table and write it again"):
        read(tmp_path)


def nameless(table: pa.Table) -> pa.Table:
    images = pa.array([{"bytes": b"x", "path": None}], IMAGES.field("image").type)
    return table.set_column(8, IMAGES.field("image"), [images])


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop(["factor"]), "lacks the column factor"),
        (lambda table: table.append_column("age", [[1]]), "has an unknown column age"),
        (lambda table: table.append_column("factor", [[1]]), "has the column factor twice"),
        (lambda table: table.set_column(4, "factor", [["2"]]), "the column factor is string, not int8"),
        (lambda table: table.set_column(1, "person_id", [[None]]), "the column person_id is null"),
        (
            lambda table: table.set_column(1, "person_id", pa.array([None], pa.string())),
            "nulls in .* person_id",
        ),
    ],
)
def test_a_shard_of_another_schema_is_named(
    tmp_path: Path, read: Callable[[Path], object], change: Callable[[pa.Table], pa.Table], said: str
) -> None:
    write_table(tmp_path, rows(1))
    (shard,) = shards(tmp_path)
    pq.write_table(change(pq.read_table(shard)), shard)
    with pytest.raises(InputError, match=f"^{shard}.*{said}.*; delete the table and write it again"):
        read(tmp_path)


def test_an_image_without_a_name_is_named(tmp_path: Path) -> None:
    write_table(tmp_path, rows(1))
    (shard,) = shards(tmp_path)
    pq.write_table(nameless(pq.read_table(shard)), shard)
    with pytest.raises(InputError, match=r"nulls in the column image\.path"):
        list(read_rows(tmp_path))


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    """Wherever it is: a person_id with another digit would be another person."""
    write_table(tmp_path, rows(40))
    (shard,) = shards(tmp_path)
    whole = shard.read_bytes()
    for place in range(0, len(whole), 31):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with suppress(InputError):  # a byte of no use may pass
            assert list(read_rows(tmp_path)) == rows(40)


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-9], lambda data: data[:4] + b"?" * 99]
)
def test_a_damaged_shard_is_named(
    tmp_path: Path, read: Callable[[Path], object], damage: Callable[[bytes], bytes]
) -> None:
    write_table(tmp_path / "table", rows(1))
    (shard,) = shards(tmp_path / "table")
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(InputError, match=f"^{shard} is no whole Parquet file .*; delete the table"):
        read(tmp_path / "table")
