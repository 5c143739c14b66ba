"""VIPeR: the real one untouched, small archives in its layout, whole and damaged."""

import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from archives import Members, keys, message_of, pack, unpack

from dgrl.datasets import viper
from dgrl.mlr.protocol import MlrParams, plan_split, table_digest
from dgrl.tables import ImageRow

REAL = Path(__file__).parents[2] / "shared/data/VIPeR.v1.0.zip"


def bitmap(value: int) -> bytes:
    noise = np.random.default_rng(value).integers(0, 256, (12, 6, 3), np.uint8)
    return cv2.imencode(".bmp", noise)[1].tobytes()


def small(persons: tuple[int, ...] = (0, 1, 5)) -> Members:
    """A tiny archive in the official layout."""
    a = {f"VIPeR/cam_a/{person:03d}_45.bmp": bitmap(2 * person) for person in persons}
    b = {f"VIPeR/cam_b/{person:03d}_135.bmp": bitmap(2 * person + 1) for person in persons}
    return {"VIPeR/README.txt": b"VIPeR", **a, **b}


@pytest.fixture
def three_persons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viper, "PERSONS", 3)


# The real archive


@pytest.fixture(scope="module")
def real() -> list[ImageRow]:
    if not REAL.exists():
        pytest.skip(f"{REAL.name} is not here")
    return list(viper.images(REAL))


def test_the_real_archive_has_two_images_of_632_persons(real: list[ImageRow]) -> None:
    assert len(real) == len({row.image_id for row in real}) == 1264
    assert Counter(row.camera_id for row in real) == {"cam_a": 632, "cam_b": 632}
    assert set(Counter(row.person_id for row in real).values()) == {2}
    assert {(row.width, row.height, row.subset, row.factor) for row in real} == {(48, 128, "all", 1)}
    assert [row.image_id for row in real] == sorted(row.image_id for row in real)


def test_the_real_images_are_untouched(real: list[ImageRow]) -> None:
    with zipfile.ZipFile(REAL) as archive:
        for row in real:
            assert row.data == archive.read(row.path)
            assert row.path.startswith(f"VIPeR/{row.camera_id}/{row.person_id}_")


@pytest.mark.parametrize("lr_camera", viper.CAMERAS)
def test_the_real_split_is_316_and_316_persons(real: list[ImageRow], lr_camera: str) -> None:
    split = plan_split(keys(real), "viper", MlrParams(lr_camera={"viper": lr_camera}))
    assert len(split.train_persons) == len(split.test_persons) == 316
    entries = [entry for entries in split.entries.values() for entry in entries]
    expected = {"train_hr": 632, "train_lr": 632, "query": 316, "gallery": 316}
    assert Counter(entry.table for entry in entries) == expected
    assert {entry.image_id[4:] for entry in entries if entry.table == "query"} == {lr_camera}


def test_a_folder_with_the_real_content_is_the_same_set(real: list[ImageRow], tmp_path: Path) -> None:
    with zipfile.ZipFile(REAL) as archive:
        folder = unpack(tmp_path, {name: archive.read(name) for name in archive.namelist()})
    rows = list(viper.images(folder))
    assert rows == real
    assert table_digest(keys(rows)) == table_digest(keys(real))


# Small archives


@pytest.mark.usefixtures("three_persons")
@pytest.mark.parametrize("form", [pack, unpack])
@pytest.mark.parametrize("root", ["VIPeR/", "", "somewhere/VIPeR.v1.0/"])
def test_a_whole_archive_is_read_whatever_folder_it_begins_with(
    tmp_path: Path, form: Callable[[Path, Members], Path], root: str
) -> None:
    members = {root + name.removeprefix("VIPeR/"): data for name, data in small().items()}
    rows = list(viper.images(form(tmp_path / "archive", members)))
    assert [row.image_id for row in rows] == [
        f"{p}_{c}" for p in ("000", "001", "005") for c in viper.CAMERAS
    ]
    assert [row.data for row in rows] == [bitmap(value) for value in (0, 1, 2, 3, 10, 11)]
    assert rows[5].path == f"{root}cam_b/005_135.bmp"
    assert (rows[5].width, rows[5].height) == (6, 12)


@pytest.mark.usefixtures("three_persons")
def test_the_hidden_files_of_other_systems_are_no_images(tmp_path: Path) -> None:
    extra = {"__MACOSX/VIPeR/cam_a/._000_45.bmp": b"\x00\x05", "VIPeR/cam_a/Thumbs.db": b"x"}
    assert len(list(viper.images(pack(tmp_path / "v.zip", small() | extra)))) == 6


def error_of(archive: Path) -> str:
    return message_of(lambda path: list(viper.images(path)), archive)


@pytest.mark.parametrize("form", [pack, unpack])
def test_the_archive_of_another_dataset(tmp_path: Path, form: Callable[[Path, Members], Path]) -> None:
    message = error_of(form(tmp_path / "VIPeR.v1.0.zip", {"CAVIAR4REID/0001001.jpg": b"x"}))
    assert "no file like VIPeR/cam_a/000_45.bmp (its first is CAVIAR4REID/0001001.jpg); give" in message


@pytest.mark.usefixtures("three_persons")
@pytest.mark.parametrize("camera", viper.CAMERAS)
def test_a_missing_camera_folder(tmp_path: Path, camera: str) -> None:
    members = {name: data for name, data in small().items() if camera not in name}
    assert f"has no image in {camera}/; get" in error_of(pack(tmp_path / "v.zip", members))


@pytest.mark.usefixtures("three_persons")
def test_a_missing_image_names_the_person(tmp_path: Path) -> None:
    members = small()
    del members["VIPeR/cam_a/005_45.bmp"]
    message = error_of(pack(tmp_path / "v.zip", members))
    assert "5 images of 3 persons instead of 6 of 3; first missing: person 005 in cam_a/" in message


@pytest.mark.usefixtures("three_persons")
@pytest.mark.parametrize("form", [pack, unpack])
def test_two_images_of_a_person_by_one_camera(tmp_path: Path, form: Callable[[Path, Members], Path]) -> None:
    message = error_of(form(tmp_path / "v", small() | {"VIPeR/cam_a/001_90.bmp": bitmap(9)}))
    assert "image 001_cam_a twice (VIPeR/cam_a/001_45.bmp, VIPeR/cam_a/001_90.bmp); keep one" in message


@pytest.mark.usefixtures("three_persons")
@pytest.mark.parametrize("form", [pack, unpack])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty (0 bytes)"),
        (b"no image", "is not a readable image"),
        (bitmap(3)[:100], "is not a readable image"),
    ],
)
def test_an_image_that_is_none(
    tmp_path: Path, form: Callable[[Path, Members], Path], data: bytes, said: str
) -> None:
    message = error_of(form(tmp_path / "v", small() | {"VIPeR/cam_b/001_135.bmp": data}))
    assert f"VIPeR/cam_b/001_135.bmp {said}" in message


@pytest.mark.usefixtures("three_persons")
@pytest.mark.parametrize("persons", [(0, 1), (0, 1, 2, 3)])
def test_too_few_or_too_many_persons(tmp_path: Path, persons: tuple[int, ...]) -> None:
    message = error_of(pack(tmp_path / "v.zip", small(persons)))
    assert f"{2 * len(persons)} images of {len(persons)} persons instead of 6 of 3" in message
