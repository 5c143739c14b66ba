"""Anyone's own images, named by a table or a pattern, and every way to get that wrong."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folder_of_images import FILES, HEADER, PATTERN, ROWS, error_of, image, make_root, pattern, table

from dgrl.datasets.folder import FolderParams, images
from dgrl.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path)


def test_a_pattern_and_a_table_say_the_same(root: Path) -> None:
    rows = list(images(pattern(root)))
    assert [row.image_id for row in rows] == [file.removesuffix(".png") for file in FILES]
    assert [(row.person_id, row.camera_id) for row in rows[1:3]] == [("bob", "door"), ("ann", "yard")]
    assert [row.data for row in rows] == [image(value) for value in range(5)]
    assert {(row.width, row.height, row.subset, row.factor) for row in rows} == {(6, 12, "all", 1)}
    assert list(images(table(root, ROWS[::-1]))) == rows


def test_a_parquet_table_and_a_zip_file(root: Path, tmp_path: Path) -> None:
    cells: dict[str, list[Any]] = {"path": FILES, "person_id": [7, 8, 7, 7, 8], "camera_id": [1, 1, 2, 2, 2]}
    pq.write_table(pa.table(cells), tmp_path / "people.parquet")
    with zipfile.ZipFile(tmp_path / "root.zip", "w") as archive:
        for file in FILES:
            archive.write(root / file, file)
    for place in (root, tmp_path / "root.zip"):
        rows = list(images(FolderParams(root=str(place), table=str(tmp_path / "people.parquet"))))
        assert [row.person_id for row in rows] == ["7", "8", "7", "7", "8"]
        assert [row.camera_id for row in rows] == ["1", "1", "2", "2", "2"]


def test_a_table_of_a_spreadsheet(root: Path) -> None:
    params = table(root, [f"{row} " for row in ROWS], f"\ufeff{HEADER}")
    assert [row.camera_id for row in images(params)] == ["door", "door", "yard", "yard", "yard"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", ", "),
        lambda text: "\n".join('"' + line.replace(",", '", "') + '"' for line in text.splitlines()),
        lambda text: text.replace(HEADER, "Path,Person_ID , CAMERA_ID"),
        lambda text: text.replace("/", "\\"),
        lambda text: text.replace("\n", "\r\n"),
    ],
)
def test_a_table_as_other_programs_write_it(root: Path, change: Callable[[str], str]) -> None:
    params = table(root, ROWS)
    expected = list(images(params))
    other = root.parent / "OTHER.CSV"
    other.write_bytes(change((root.parent / "people.csv").read_text()).encode())
    assert list(images(params.model_copy(update={"table": str(other)}))) == expected


def test_without_cameras_each_role_is_one(root: Path) -> None:
    lines = [f"{file},{file.split('/')[1][:3]},{'lr' if 'door' in file else 'hr'}" for file in FILES]
    rows = list(images(table(root, lines, "path,person_id,role")))
    assert [row.camera_id for row in rows] == ["lr:all", "lr:all", "hr:all", "hr:all", "hr:all"]
    (root / "door").rename(root / "lr")
    (root / "yard").rename(root / "hr")
    rows = list(images(pattern(root, PATTERN.replace("camera_id", "role"))))
    assert sorted(row.camera_id for row in rows) == ["hr:all", "hr:all", "hr:all", "lr:all", "lr:all"]


def test_what_is_left_out_is_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "door/cid_1.PNG").write_bytes(image(9))
    (root / "door/.hidden.png").write_bytes(b"")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX/ann_1.png").write_bytes(b"")
    with caplog.at_level("INFO"):
        assert len(list(images(pattern(root)))) == 5
    (said,) = caplog.messages  # once
    assert said.endswith("root: 2 of 7 files are left out, such as door/cid_1.PNG")


@pytest.mark.parametrize("separator", [",", ";", "\t", ", "])
def test_the_tables_of_several_countries_and_programs(root: Path, separator: str) -> None:
    expected = list(images(table(root, ROWS)))
    lines = [separator.join(f'"{cell}"' for cell in row.split(",")) for row in ROWS]
    header = separator.join(["Path", "PERSON_ID", "Camera_Id "])
    assert list(images(table(root, [*lines, separator * 2], header))) == expected


def test_paths_as_windows_writes_them_and_absolute_ones(root: Path) -> None:
    expected = list(images(table(root, ROWS)))
    assert list(images(table(root, [row.replace("/", "\\") for row in ROWS]))) == expected
    link = root.parent / "link"
    link.symlink_to(root)
    for start in (root, link):
        params = table(root, [f"{start}/{row}" for row in ROWS])
        assert list(images(params.model_copy(update={"root": str(start)}))) == expected
    params = table(root, [f"{root}/{row}" for row in ROWS])
    assert list(images(params.model_copy(update={"root": str(link)}))) == expected


def test_a_quote_that_does_not_end_takes_no_rows_along(root: Path) -> None:
    assert "is no readable table (unexpected end of data)" in error_of(
        table(root, [ROWS[0], 'yard/ann_1.png,ann,"yard', *ROWS[3:]])
    )


@pytest.mark.parametrize("name", ["an\nn", "an\x00n", "an\u2028n"])
def test_a_name_with_a_line_break_is_refused(root: Path, name: str) -> None:
    message = error_of(table(root, [*ROWS[:2], f'yard/ann_1.png,"{name}",yard']))
    assert f"row 3 below the header: person_id {name!r} has a line break" in message


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_of_another_encoding(root: Path, encoding: str) -> None:
    params = table(root, [])
    (root.parent / "people.csv").write_text(f"{HEADER}\nyard/ann_1.png,J\u00f6rg,yard\n", encoding)
    assert "people.csv is not in UTF-8; save it as CSV in UTF-8" in error_of(params)


def test_a_parquet_table_of_bytes(root: Path) -> None:
    file = root.parent / "people.parquet"
    pq.write_table(pa.table({"path": FILES, "person_id": [b"7"] * 5, "camera_id": [1] * 5}), file)
    message = error_of(FolderParams(root=str(root), table=str(file)))
    assert "the column person_id is binary, neither text nor numbers" in message


def test_a_role_is_part_of_the_camera(root: Path) -> None:
    expected = ["lr:door", "lr:door", "hr:yard", "hr:yard", "hr:yard"]
    roles = ["lr" if "door" in row else "hr" for row in ROWS]
    lines = [f"{row},{role}" for row, role in zip(ROWS, roles, strict=True)]
    assert [row.camera_id for row in images(table(root, lines, f"{HEADER},role"))] == expected
    for name, role in (("door", "lr"), ("yard", "hr")):
        (root / name).rename(root / f"{role}-{name}")
    rows = images(pattern(root, r"(?P<role>..)-" + PATTERN))
    assert sorted(row.camera_id for row in rows) == sorted(expected)


def test_a_subset_is_kept(root: Path) -> None:
    subsets = ["train", "test", "distractor", "junk", ""]
    lines = [f"{row},{subset}" for row, subset in zip(ROWS, subsets, strict=True)]
    rows = images(table(root, lines, f"{HEADER},subset"))
    assert [row.subset for row in rows] == [*subsets[:4], "all"]
    rows = images(pattern(root, r"(?P<camera_id>(?P<subset>test)?[^/]+)/(?P<person_id>[^_]+)_\d+\.png"))
    assert {row.subset for row in rows} == {"all"}
    (root / "door").rename(root / "test")
    rows = images(pattern(root, r"(?P<camera_id>(?P<subset>test)?[^/]*)/(?P<person_id>[^_]+)_\d+\.png"))
    assert [row.subset for row in rows] == ["test", "test", "all", "all", "all"]


def test_an_unknown_subset(root: Path) -> None:
    message = error_of(table(root, [f"{row},gallery" for row in ROWS], f"{HEADER},subset"))
    assert (
        "row 1 below the header: subset 'gallery' is none of train, test, query, distractor, junk" in message
    )


def test_files_that_are_not_listed_are_left_out(root: Path) -> None:
    kept = [row for row in ROWS if "ann" in row]
    assert {row.person_id for row in images(table(root, kept))} == {"ann"}


# The parameters


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"root": "x"}, "exactly one of table and pattern"),
        ({"root": "x", "table": "t.csv", "pattern": PATTERN}, "exactly one of table and pattern"),
        ({"table": "t.csv"}, "give root and"),
        ({"root": "x", "pattern": "("}, "folder.pattern = '(': is no regular expression"),
        ({"root": "x", "pattern": "(?P<camera_id>.)"}, "has no group person_id, only ['path', 'camera_id']"),
        (
            {"root": "x", "pattern": PATTERN + "(?P<view>.)"},
            "has an unknown group 'view' (allowed: path, person_id, camera_id, role, subset)",
        ),
        ({"root": "x", "pattern": "(?P<person_id>.)"}, "has neither a group camera_id nor a group role"),
    ],
)
def test_wrong_parameters(values: dict[str, str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        FolderParams.parse(values, "folder")
    assert said in str(caught.value)


def test_no_folder_is_given() -> None:
    assert "set root and one of table and pattern" in error_of(FolderParams())


# The folder and the table


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    assert "nowhere does not exist" in error_of(pattern(tmp_path / "nowhere"))


def test_no_file_matches(root: Path) -> None:
    message = error_of(pattern(root, r"(?P<camera_id>[^/]+)/(?P<person_id>[^_]+)"))  # not the whole path
    assert "no file below" in message
    assert "such as 'door/ann_1.png'" in message


def test_a_pattern_that_takes_for_ever(root: Path) -> None:
    (root / ("a" * 100)).write_bytes(image(0))
    message = error_of(pattern(root, r"(?P<camera_id>(a|aa)+)x(?P<person_id>b)"))
    assert "the pattern '(?P<camera_id>(a|aa)+)x(?P<person_id>b)' takes too long for" in message


def test_a_table_without_rows(root: Path) -> None:
    assert "people.csv has no rows" in error_of(table(root, []))


@pytest.mark.parametrize("name", ["people.csv", "people.parquet"])
def test_an_unreadable_table(root: Path, name: str) -> None:
    params = FolderParams(root=str(root), table=str(root / name))
    assert f"{name} cannot be read (No such file or directory)" in error_of(params)
    (root / name).mkdir()
    assert f"{name} cannot be read (Is a directory)" in error_of(params)


def test_a_damaged_parquet_table(root: Path) -> None:
    (root / "people.parquet").write_bytes(b"PAR1")
    message = error_of(FolderParams(root=str(root), table=str(root / "people.parquet")))
    assert "people.parquet is no readable table" in message


def test_a_table_of_an_unknown_kind(root: Path) -> None:
    assert "neither a .csv nor a .parquet" in error_of(FolderParams(root=str(root), table="people.xlsx"))


@pytest.mark.parametrize("column", ["path", "person_id"])
def test_a_missing_column(root: Path, column: str) -> None:
    message = error_of(table(root, ROWS, HEADER.replace(column, "other")))
    assert f"people.csv has no column {column}, only [" in message


def test_a_table_without_cameras_and_roles(root: Path) -> None:
    message = error_of(table(root, ROWS, HEADER.replace("camera_id", "other")))
    assert "people.csv has neither a column camera_id nor a column role, only ['path', " in message


def test_an_unknown_column(root: Path) -> None:
    message = error_of(table(root, [f"{row},x" for row in ROWS], f"{HEADER},rol"))
    assert "people.csv has an unknown column 'rol' (allowed: path, person_id, camera_id, role" in message


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_repeated_column(root: Path, suffix: str) -> None:
    params = table(root, [f"{row},x" for row in ROWS], f"{HEADER},person_id")
    file = root.parent / f"people{suffix}"
    if suffix == ".parquet":
        names = ["path", "person_id", "camera_id", "person_id"]
        pq.write_table(pa.Table.from_arrays([pa.array(FILES)] * 4, names), file)
    message = error_of(params.model_copy(update={"table": str(file)}))
    assert f"people{suffix} has the column person_id 2 times; keep one" in message


@pytest.mark.parametrize(
    ("row", "cells"), [("yard/ann_1.png,ann, the first,yard", 4), ("yard/ann_1.png,ann", 2)]
)
def test_a_row_with_more_or_fewer_cells_than_the_header(root: Path, row: str, cells: int) -> None:
    message = error_of(table(root, [*ROWS[:2], row, *ROWS[3:]]))
    assert f"people.csv: row 3 below the header has {cells} cells for 3 columns" in message


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ("yard/ann_1.png,,yard", "person_id"),
        ("yard/ann_1.png, ,yard", "person_id"),
        ("yard/ann_1.png,ann,", "camera_id"),
        (",ann,yard", "path"),
    ],
)
def test_an_empty_cell_names_the_row(root: Path, row: str, column: str) -> None:
    assert f"row 3 below the header has no {column}" in error_of(table(root, [*ROWS[:2], row, *ROWS[3:]]))


@pytest.mark.parametrize("nobody", [None, float("nan")])
def test_a_parquet_row_without_a_person(root: Path, nobody: float | None) -> None:
    cells = {"path": FILES, "person_id": [1.0, 2.0, 1.0, nobody, 2.0], "camera_id": ["x"] * 5}
    pq.write_table(pa.table(cells), root.parent / "people.parquet")
    message = error_of(FolderParams(root=str(root), table=str(root.parent / "people.parquet")))
    assert "row 4 below the header has no person_id" in message


def test_whole_numbers_that_a_parquet_file_holds_as_floats(root: Path) -> None:
    cells = {"path": FILES, "person_id": [1.0, 2.0, 1.0, 1.0, 2.0], "camera_id": [0.5] * 5}
    pq.write_table(pa.table(cells), root.parent / "people.parquet")
    rows = list(images(FolderParams(root=str(root), table=str(root.parent / "people.parquet"))))
    assert [row.person_id for row in rows] == ["1", "2", "1", "1", "2"]
    assert {row.camera_id for row in rows} == {"0.5"}


def test_a_pattern_that_leaves_the_person_empty(root: Path) -> None:
    message = error_of(pattern(root, r"(?P<camera_id>[^/]+)/(?P<person_id>ann)?.*\.png"))
    assert "'door/bob_1.png' has no person_id" in message


@pytest.mark.parametrize("role", ["HR", "both", ""])
def test_a_role_that_is_none(root: Path, role: str) -> None:
    lines = [f"{row},{'hr' if row != ROWS[2] else role}" for row in ROWS]
    message = error_of(table(root, lines, f"{HEADER},role"))
    assert f"row 3 below the header: role '{role}' is neither hr nor lr" in message
