"""CUHK03: small .mat files in the official structure, written by h5py as MATLAB v7.3 writes them."""

import json
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from archives import message_of
from mat_files import (
    DETECTED,
    LABELLED,
    PERSONS,
    TESTSETS,
    Contents,
    expect_small,
    image_id,
    stage_params,
    write_mat,
)

from dgrl.datasets import cuhk03
from dgrl.datasets.archive import Archive
from dgrl.errors import InputError
from dgrl.mlr.protocol import TABLES
from dgrl.tables import ImageRow, read_keys
from pipeline.download import download
from pipeline.split import split


@pytest.fixture(autouse=True)
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    expect_small(monkeypatch)


def images(archive: Path, **params: Any) -> list[ImageRow]:
    return list(cuhk03.images(cuhk03.Cuhk03Params(**params), archive))


def error_of(archive: Path, read: Callable[[Path], object] = images) -> str:
    return message_of(read, archive)


def as_mat(folder: Path) -> Path:
    return write_mat(folder / "renamed.mat")


def as_folder(folder: Path) -> Path:
    (folder / "any/cuhk03_release").mkdir(parents=True)
    write_mat(folder / "any/cuhk03_release/cuhk-03.mat")
    return folder / "any"


def as_zip(folder: Path) -> Path:
    mat = write_mat(folder / "x.mat")
    with zipfile.ZipFile(folder / "renamed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cuhk03_release/README", b"CUHK03")
        archive.write(mat, "cuhk03_release/cuhk-03.mat")
    return folder / "renamed.zip"


@pytest.mark.parametrize("form", [as_mat, as_folder, as_zip])
@pytest.mark.parametrize(("boxes", "contents"), [("labelled", LABELLED), ("detected", DETECTED)])
def test_every_image_comes_back_to_the_pixel(
    tmp_path: Path, form: Callable[[Path], Path], boxes: cuhk03.Boxes, contents: Contents
) -> None:
    rows = images(form(tmp_path), boxes=boxes)
    expected = {image_id(*cell): pixels for cell, pixels in contents.items()}
    assert [row.image_id for row in rows] == sorted(expected)
    for row in rows:
        np.testing.assert_array_equal(row.pixels(), expected[row.image_id])
        assert (row.height, row.width) == expected[row.image_id].shape[:2]
        assert row.data.startswith(b"\x89PNG")
    assert {(row.subset, row.factor) for row in rows} == {("all", 1)}


def test_persons_and_cameras(tmp_path: Path) -> None:
    rows = {row.image_id: row for row in images(write_mat(tmp_path / "cuhk-03.mat"))}
    assert {(row.person_id, row.camera_id) for row in rows.values()} == {
        (f"{pair}_{row:03d}", f"{pair}_{letter}")
        for pair, persons in enumerate(PERSONS, 1)
        for row in range(1, persons + 1)
        for letter in "ab"
    }
    assert (rows["1_002_a_05"].camera_id, rows["1_002_b_06"].camera_id) == ("1_a", "1_b")
    assert rows["1_002_a_05"].person_id == rows["1_002_b_06"].person_id == "1_002"


def test_merged_cameras(tmp_path: Path) -> None:
    mat = write_mat(tmp_path / "cuhk-03.mat")
    merged = images(mat, merge_cameras=True)
    assert merged == [replace(row, camera_id=row.camera_id[-1]) for row in images(mat)]


@pytest.mark.parametrize("trial", range(3))
@pytest.mark.parametrize("merge_cameras", [False, True])
@pytest.mark.parametrize(("boxes", "contents"), [("labelled", LABELLED), ("detected", DETECTED)])
def test_the_stages_split_as_the_official_testsets_say(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trial: int,
    merge_cameras: bool,
    boxes: cuhk03.Boxes,
    contents: Contents,
) -> None:
    monkeypatch.chdir(tmp_path)
    mat = write_mat(tmp_path / "cuhk-03.mat")
    params = stage_params(mat, trial, merge_cameras=merge_cameras, boxes=boxes)
    download("cuhk03", params)
    split("cuhk03", params, workers=1)
    tested = {f"{pair:.0f}_{row:03.0f}" for pair, row in TESTSETS[trial]}
    everyone = {image_id(*cell): cell for cell in contents}
    tables = {table: read_keys(Path("data/cuhk03/mlr") / table) for table in TABLES}
    for table, keys in tables.items():
        wanted = [
            name
            for name, (_, _, column) in sorted(everyone.items())
            if (name[:5] in tested) == (table in ("query", "gallery"))
            and (table.startswith("train") or (table == "query") == (column < 6))
        ]
        assert list(keys.image_id) == wanted, table
        assert set(keys.person_id) == ({n[:5] for n in everyone} - tested if "train" in table else tested)
    assert set(tables["query"].camera_id) <= ({"a"} if merge_cameras else {f"{i}_a" for i in range(1, 6)})


def test_the_mat_file_is_unpacked_once_and_held_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    padding = np.random.default_rng(0).integers(0, 256, 4 << 20, np.uint8)
    mat = write_mat(tmp_path / "cuhk-03.mat")
    with h5py.File(mat, "a") as file:
        file["padding"] = padding
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.write(mat, "cuhk-03.mat")
    monkeypatch.chdir(tmp_path)
    read, unpacked = Archive.read, []

    def noted(archive: Archive, name: str, *more: int) -> bytes:
        unpacked.append(name)
        return read(archive, name, *more)

    monkeypatch.setattr(Archive, "read", noted)
    tracemalloc.start()
    download("cuhk03", stage_params(tmp_path / "c.zip", 0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert unpacked == ["cuhk-03.mat"]
    assert len(json.loads(Path("data/cuhk03/images/splits.json").read_text())) == 3
    assert padding.nbytes < peak < 1.5 * mat.stat().st_size


def test_who_was_forgotten_is_in_no_image_and_no_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params, splits = (
        stage_params(write_mat(tmp_path / "cuhk-03.mat"), 0),
        Path("data/cuhk03/images/splits.json"),
    )
    persons = download("cuhk03", params)["persons"]
    before = json.loads(splits.read_text())
    gone = before[0][0]
    Path("forgotten").mkdir()
    Path("forgotten/cuhk03.json").write_text(json.dumps([gone]))
    assert download("cuhk03", params)["persons"] == persons - 1
    expected = [[person for person in trial if person != gone] for trial in before]
    assert json.loads(splits.read_text()) == expected != before


def test_labelled_boxes_are_the_default(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "cuhk-03.mat")
    assert images(path) == images(path, boxes="labelled")
    assert cuhk03.Cuhk03Params().boxes == "labelled"
    with pytest.raises(InputError, match=r"cuhk03\.boxes = 'labeled'"):
        cuhk03.Cuhk03Params.parse({"boxes": "labeled"}, "cuhk03")


@pytest.mark.parametrize("form", [as_mat, as_folder, as_zip])
def test_the_official_splits(tmp_path: Path, form: Callable[[Path], Path]) -> None:
    splits = cuhk03.official_splits(form(tmp_path))
    assert splits == [["1_001", "2_002"], ["5_001", "1_003"], ["3_001", "4_001"]]


def test_the_official_counts_are_consistent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert sum(cuhk03.PERSONS) == 1467
    assert sum(cuhk03.PERSONS[:3]) == 1360  # the persons that the paper counts
    assert cuhk03.IMAGES == {"labelled": 7368 + 1400 + 5328, "detected": 7365 + 1400 + 5332}


# Damaged archives


def test_a_missing_archive(tmp_path: Path) -> None:
    assert "does not exist" in error_of(tmp_path / "cuhk-03.mat")


@pytest.mark.parametrize("names", [[], ["VIPeR/cam_a/000_45.bmp"]])
def test_the_archive_of_another_dataset(tmp_path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(tmp_path / "cuhk03_release.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    for path in (tmp_path, tmp_path / "cuhk03_release.zip"):
        assert "has no file cuhk-03.mat; give the official CUHK03 archive" in error_of(path)


def test_the_mat_file_of_another_dataset(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "cuhk-03.mat", "w") as file:
        file["images"] = np.zeros((2, 2))
    message = error_of(tmp_path / "cuhk-03.mat")
    assert "labeled is missing" in message
    assert "give the official cuhk-03.mat of CUHK03" in message


def test_the_file_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("a/cuhk-03.mat", b"x")
        archive.writestr("b/cuhk-03.mat", b"x")
    assert "has cuhk-03.mat 2 times" in error_of(tmp_path / "c.zip")


@pytest.mark.parametrize("data", [b"", b"MATLAB 5.0 MAT-file"])
def test_a_file_that_is_no_hdf5(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "cuhk-03.mat").write_bytes(data)
    for archive in (tmp_path, tmp_path / "cuhk-03.mat"):
        assert "is no whole MATLAB v7.3 file" in error_of(archive)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "cuhk-03.mat")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "is no whole MATLAB v7.3 file" in error_of(path)


@pytest.mark.parametrize("variable", ["labeled", "testsets"])
def test_a_missing_variable(tmp_path: Path, variable: str) -> None:
    path = write_mat(tmp_path / "cuhk-03.mat")
    with h5py.File(path, "r+") as file:
        del file[variable]
    read = cuhk03.official_splits if variable == "testsets" else images
    assert f"{variable} is missing" in error_of(path, read)


@pytest.mark.parametrize(("columns", "camera"), [(range(1, 6), "1_b"), (range(6, 11), "1_a")])
def test_a_missing_camera(tmp_path: Path, columns: range, camera: str) -> None:
    kept = {cell: pixels for cell, pixels in LABELLED.items() if cell[0] > 1 or cell[2] in columns}
    message = error_of(write_mat(tmp_path / "cuhk-03.mat", kept))
    assert f"labeled has no image of camera {camera}" in message


def test_a_missing_image(tmp_path: Path) -> None:
    kept = {cell: pixels for cell, pixels in LABELLED.items() if cell != (1, 2, 3)}
    message = error_of(write_mat(tmp_path / "cuhk-03.mat", kept))
    assert f"labeled has {len(LABELLED) - 1} images instead of {len(LABELLED)}" in message


def test_the_wrong_number_of_persons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuhk03, "PERSONS", (4, 2, 1, 1, 1))
    assert "instead of (4, 2, 1, 1, 1) persons" in error_of(write_mat(tmp_path / "cuhk-03.mat"))


@pytest.mark.parametrize(
    "content",
    [
        np.zeros((8, 4), np.uint8),
        np.zeros((8, 4, 4), np.uint8),
        np.zeros((8, 4, 3), np.float64),
        np.zeros((8, 0, 3), np.uint8),
    ],
)
def test_a_cell_that_is_no_image(tmp_path: Path, content: npt.NDArray[Any]) -> None:
    message = error_of(write_mat(tmp_path / "cuhk-03.mat", LABELLED | {(1, 2, 7): content}))
    assert "labeled{1}{2,7} is no RGB image" in message
    assert str(content.shape) in message


@pytest.mark.parametrize(
    ("testsets", "said"),
    [
        (TESTSETS[:2], "testsets has 2 cells instead of 3"),
        ([*TESTSETS[:2], [(1, 1)]], "testsets{3} is float64 of shape (1, 2) instead of (2, 2) numbers"),
        ([*TESTSETS[:2], [(1, 1), (1, 4)]], "testsets{3} names person 1_004, whom no pair"),
        ([*TESTSETS[:2], [(1, 0), (1, 1)]], "testsets{3} names person 1_000, whom no pair"),
        ([*TESTSETS[:2], [(1, 1), (1, 1)]], "testsets{3} names a person twice"),
        ([*TESTSETS[:2], [(1, 1), (1, float("nan"))]], "testsets{3} names person 1_nan, whom no pair"),
    ],
)
def test_wrong_test_sets(tmp_path: Path, testsets: list[list[tuple[float, float]]], said: str) -> None:
    assert said in error_of(write_mat(tmp_path / "cuhk-03.mat", testsets=testsets), cuhk03.official_splits)


def test_arrays_of_other_files_are_not_read(tmp_path: Path) -> None:
    """HDF5 can store an array in any file of the machine, or link to one."""
    mat = write_mat(tmp_path / "cuhk-03.mat")
    (tmp_path / "secret").write_bytes(bytes(2 * 100 * 8))
    with h5py.File(mat, "r+") as file:
        outside = file["#refs#"].create_dataset(
            "outside", (2, 100), float, external=[(str(tmp_path / "secret"), 0, 1600)]
        )
        file["testsets"][0, 0] = outside.ref
    with pytest.raises(InputError, match=r"testsets\{1\} lies in another file"):
        cuhk03.official_splits(mat)
    with h5py.File(tmp_path / "other.mat", "w") as other:
        other["array"] = np.zeros(3)
    with h5py.File(mat, "r+") as file:
        del file["testsets"]
        file["testsets"] = h5py.ExternalLink("other.mat", "/array")
    with pytest.raises(InputError, match="testsets lies in another file"):
        cuhk03.official_splits(mat)


@pytest.mark.parametrize(
    "odd",
    [
        {"data": h5py.Empty("f")},
        {"shape": (2, 1), "dtype": "S1000000000", "chunks": (1, 1), "compression": "gzip"},
        {"shape": (2, 1), "dtype": h5py.vlen_dtype(np.float64)},
        {"shape": (2, 1), "dtype": h5py.string_dtype()},
        {"shape": (2, 1), "dtype": [("a", "f8")]},
        {"shape": (2, 1), "dtype": h5py.ref_dtype},  # to nothing
    ],
    ids=str,
)
def test_arrays_of_odd_types_are_refused_before_they_are_read(tmp_path: Path, odd: dict[str, Any]) -> None:
    mat = write_mat(tmp_path / "cuhk-03.mat")
    with h5py.File(mat, "r+") as file:
        del file["testsets"]
        file.create_dataset("testsets", **odd)
    message = error_of(mat, cuhk03.official_splits)
    assert "testsets" in message
    assert "give the official cuhk-03.mat" in message
