"""CAVIAR4REID: the real one untouched, small archives in its layout, whole and damaged."""

import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from archives import Members, message_of, pack, unpack

from dgrl.datasets import caviar
from dgrl.mlr.protocol import MlrParams, plan_split
from dgrl.tables import KEYS, ImageRow

REAL = Path(__file__).parents[2] / "shared/data/CAVIAR4REID.zip"


def jpeg(value: int) -> bytes:
    noise = np.random.default_rng(value).integers(0, 256, (12, 6, 3), np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


def small() -> Members:
    """Persons 1 and 3 seen by both cameras, person 2 by one."""
    numbers = {1: 20, 2: 10, 3: 20}
    return {
        f"CAVIAR4REID/{person:04d}{number:03d}.jpg": jpeg(100 * person + number)
        for person, last in numbers.items()
        for number in range(1, last + 1)
    }


@pytest.fixture
def three_persons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caviar, "PERSONS", 3)
    monkeypatch.setattr(caviar, "SEEN_TWICE", 2)


def error_of(archive: Path) -> str:
    return message_of(lambda path: list(caviar.images(path)), archive)


# The real archive


@pytest.fixture(scope="module")
def real() -> list[ImageRow]:
    if not REAL.exists():
        pytest.skip(f"{REAL.name} is not here")
    return list(caviar.images(REAL))


def test_the_real_archive_has_50_persons_seen_twice_and_22_once(real: list[ImageRow]) -> None:
    assert len({row.image_id for row in real}) == len(real) == 1220
    assert [row.image_id for row in real] == sorted(row.image_id for row in real)
    of_person = Counter(row.person_id for row in real)
    assert Counter(of_person.values()) == {20: 50, 10: 22}
    assert Counter(row.camera_id for row in real) == {"near": 720, "far": 500}
    assert {(row.subset, row.factor) for row in real} == {("all", 1)}


def test_the_far_camera_sees_persons_smaller(real: list[ImageRow]) -> None:
    far = {row.person_id for row in real if row.camera_id == "far"}
    heights = {
        camera: np.mean([row.height for row in real if row.camera_id == camera and row.person_id in far])
        for camera in ("near", "far")
    }
    assert {camera: round(height) for camera, height in heights.items()} == {"near": 101, "far": 59}


def test_the_real_images_are_untouched(real: list[ImageRow]) -> None:
    with zipfile.ZipFile(REAL) as archive:
        assert {row.path: row.data for row in real} == {n: archive.read(n) for n in archive.namelist()}


def test_the_real_split_is_25_and_25_persons_and_drops_22(real: list[ImageRow]) -> None:
    keys = pd.DataFrame([asdict(row) for row in real])[KEYS]
    split = plan_split(keys, "caviar", MlrParams(lr_camera={"caviar": "far"}))
    persons = split.train_persons, split.test_persons, split.dropped_persons
    assert [len(group) for group in persons] == [25, 25, 22]
    tables = Counter(entry.table for entries in split.entries.values() for entry in entries)
    assert (tables["query"], tables["gallery"]) == (250, 250)


def test_a_folder_with_the_real_content_is_the_same_set(real: list[ImageRow], tmp_path: Path) -> None:
    with zipfile.ZipFile(REAL) as archive:
        folder = unpack(tmp_path, {name: archive.read(name) for name in archive.namelist()})
    assert list(caviar.images(folder)) == real


# Small archives


@pytest.mark.usefixtures("three_persons")
@pytest.mark.parametrize("form", [pack, unpack])
@pytest.mark.parametrize("root", ["CAVIAR4REID/", ""])
def test_a_whole_archive_is_read_whatever_it_is_called(
    tmp_path: Path, form: Callable[[Path, Members], Path], root: str
) -> None:
    members = {root + name.removeprefix("CAVIAR4REID/"): data for name, data in reversed(small().items())}
    rows = list(caviar.images(form(tmp_path / "renamed", members)))
    assert [row.image_id for row in rows] == [Path(name).stem for name in small()]
    assert all(row.data == members[row.path] for row in rows)
    assert [row.camera_id for row in rows] == [*["near"] * 10, *["far"] * 10, *["near"] * 20, *["far"] * 10]
    assert [rows[9].image_id, rows[10].image_id] == ["0001010", "0001011"]


@pytest.mark.parametrize("form", [pack, unpack])
def test_the_archive_of_another_dataset(tmp_path: Path, form: Callable[[Path, Members], Path]) -> None:
    message = error_of(form(tmp_path / "CAVIAR4REID.zip", {"VIPeR/cam_a/000_45.bmp": b"x"}))
    assert "no file like CAVIAR4REID/0001001.jpg (its first is VIPeR/cam_a/000_45.bmp); give" in message


@pytest.mark.usefixtures("three_persons")
@pytest.mark.parametrize("form", [pack, unpack])
def test_an_image_twice(tmp_path: Path, form: Callable[[Path, Members], Path]) -> None:
    message = error_of(form(tmp_path / "c", small() | {"copy/0003001.jpg": jpeg(0)}))
    assert "image 0003001 twice (CAVIAR4REID/0003001.jpg, copy/0003001.jpg); keep one" in message


@pytest.mark.usefixtures("three_persons")
@pytest.mark.parametrize("kept", [range(1, 11), range(11, 21)])
def test_a_missing_camera(tmp_path: Path, kept: range) -> None:
    members = {name: data for name, data in small().items() if int(Path(name).stem[4:]) in kept}
    assert "0 of them seen by both cameras, instead of 3 and 2" in error_of(pack(tmp_path / "c.zip", members))


@pytest.mark.usefixtures("three_persons")
def test_a_missing_person(tmp_path: Path) -> None:
    members = {name: data for name, data in small().items() if "/0002" not in name}
    assert "2 persons, 2 of them" in error_of(pack(tmp_path / "c.zip", members))


@pytest.mark.usefixtures("three_persons")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("0003015", "person 0003 has 9 images of the far camera instead of 10"),
        ("0002010", "person 0002 has 9 images of the near camera instead of 10"),
    ],
)
def test_a_missing_image(tmp_path: Path, name: str, said: str) -> None:
    members = small()
    del members[f"CAVIAR4REID/{name}.jpg"]
    assert said in error_of(pack(tmp_path / "c.zip", members))


@pytest.mark.usefixtures("three_persons")
def test_an_image_too_many(tmp_path: Path) -> None:
    path = pack(tmp_path / "c.zip", small() | {"CAVIAR4REID/0003021.jpg": jpeg(0)})
    assert "person 0003 has 11 images of the far camera" in error_of(path)


@pytest.mark.usefixtures("three_persons")
@pytest.mark.parametrize("form", [pack, unpack])
def test_an_empty_image(tmp_path: Path, form: Callable[[Path, Members], Path]) -> None:
    path = form(tmp_path / "c", small() | {"CAVIAR4REID/0003001.jpg": b""})
    assert "CAVIAR4REID/0003001.jpg is empty (0 bytes)" in error_of(path)


@pytest.mark.usefixtures("three_persons")
@pytest.mark.parametrize("data", [b"no image", jpeg(1)[:100]])
def test_an_image_that_is_none(tmp_path: Path, data: bytes) -> None:
    path = pack(tmp_path / "c.zip", small() | {"CAVIAR4REID/0003001.jpg": data})
    assert "CAVIAR4REID/0003001.jpg is not a readable image" in error_of(path)
