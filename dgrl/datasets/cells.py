"""Tables that people write, in CSV or Parquet, as rows of text."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from dgrl.datasets.archive import require_readable
from dgrl.errors import InputError, one_line
from dgrl.limits import check_size, limits

LINE = 1_000_000  # characters of a line of CSV, at most
CELL = 10_000  # characters of a cell of Parquet, at most
BATCH = 200  # rows of Parquet, so that those of such cells take no more than megabytes
KINDS = (  # of columns
    pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating,
    pa.types.is_boolean, pa.types.is_null,
)  # fmt: skip


def read_cells(table: Path) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, in lower case, and the cells of each row, empty where there is nothing.

    Args:
        table: a ``.csv`` file in UTF-8, with commas, semicolons or tabs, or a ``.parquet`` file.

    Raises:
        InputError: naming the file, and the row that is wrong.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if table.suffix.lower() not in readers:
        raise InputError(f"{table} is neither a .csv nor a .parquet file; write the table as one of these")
    require_readable(table)
    try:
        header, rows = readers[table.suffix.lower()](table)
    except UnicodeDecodeError:
        raise InputError(f"{table} is not in UTF-8; save it as CSV in UTF-8") from None
    except (OSError, ValueError, ArithmeticError, csv.Error, pa.ArrowException) as error:
        raise InputError(f"{table} is no readable table ({one_line(error)}); write it anew") from None
    columns = [column.strip().lower() for column in header]
    for column in columns:
        if columns.count(column) > 1:
            raise InputError(f"{table} has the column {column} {columns.count(column)} times; keep one")
    for number, row in enumerate(rows, 1):
        where = f"{table}: row {number} below the header"
        if len(row) != len(columns):
            raise InputError(
                f"{where} has {len(row)} cells for {len(columns)} columns; correct it, and quote a cell that "
                "holds what separates the cells"
            )
    return columns, [list(map(_text, row)) for row in rows]


def _check_count(rows: int, table: Path) -> None:
    most = limits().table_rows
    if rows > most:
        raise InputError(
            f"{table} has {rows} rows or more, more than the limit of {most}; raise limits.table_rows"
        )


def _read_csv(table: Path) -> tuple[list[str], list[Sequence[Any]]]:
    """Cells between commas, semicolons or tabs, as spreadsheets of several countries write them."""
    with table.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets begin UTF-8 with a mark
        header = file.readline(LINE)
        separator = max(",;\t", key=header.count)  # which the name of no column has
        file.seek(0)
        reader = csv.reader(_lines(file), delimiter=separator, skipinitialspace=True, strict=True)
        rows = []
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                _check_count(len(rows) - 1, table)
    return (rows or [[]])[0], rows[1:]  # type: ignore[return-value]


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a file, none of which takes all memory."""
    while line := file.readline(LINE):
        if len(line) == LINE:
            raise ValueError(f"a line has {LINE} characters or more")
        yield line


def _read_parquet(table: Path) -> tuple[list[str], list[Sequence[Any]]]:
    """Of text and numbers; a few bytes can stand for a table that memory does not hold."""
    rows: list[Sequence[Any]] = []
    with pq.ParquetFile(table) as file:  # read_table knows no repeated columns
        _check_count(file.metadata.num_rows, table)
        groups = range(file.metadata.num_row_groups)
        check_size(str(table), sum(file.metadata.row_group(group).total_byte_size for group in groups))
        for field in file.schema_arrow:
            kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            if not any(is_kind(kind) for is_kind in KINDS):
                raise InputError(
                    f"{table}: the column {field.name} is {kind}, neither text nor numbers; correct it"
                )
        for batch in file.iter_batches(BATCH):
            columns = [column.to_pylist() for column in batch.columns]
            if any(isinstance(cell, str) and len(cell) > CELL for column in columns for cell in column):
                raise ValueError(f"a cell has more than {CELL} characters")
            rows += zip(*columns, strict=True)
    return file.schema_arrow.names, rows


def _text(cell: Any) -> str:
    missing = cell is None or cell != cell  # NaN, which differs from itself
    if isinstance(cell, float) and cell.is_integer():  # whole numbers of a column that lacks some
        cell = int(cell)
    return "" if missing else str(cell).strip()
