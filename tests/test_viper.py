"""VIPeR and the archives it comes in: the real one untouched, every damaged one named."""

import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from dgrl.datasets import viper
from dgrl.datasets.archive import open_archive
from dgrl.errors import InputError
from dgrl.mlr import MlrParams, plan_split, table_digest
from dgrl.tables import KEYS, ImageRow

REAL = Path(__file__).parents[2] / "shared/data/VIPeR.v1.0.zip"
Members = dict[str, bytes]


def bitmap(value: int) -> bytes:
    noise = np.random.default_rng(value).integers(0, 256, (12, 6, 3), np.uint8)
    return cv2.imencode(".bmp", noise)[1].tobytes()


def small(persons: tuple[int, ...] = (0, 1, 5)) -> Members:
    """A tiny archive in the official layout."""
    a = {f"VIPeR/cam_a/{person:03d}_45.bmp": bitmap(2 * person) for person in persons}
    b = {f"VIPeR/cam_b/{person:03d}_135.bmp": bitmap(2 * person + 1) for person in persons}
    return {"VIPeR/README.txt": b"VIPeR", **a, **b}


def pack(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def unpack(folder: Path, members: Members) -> Path:
    for name, data in members.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


@pytest.fixture
def three_persons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viper, "PERSONS", 3)


def keys(rows: list[ImageRow]) -> pd.DataFrame:
    return pd.DataFrame([asdict(row) for row in rows])[KEYS]


# The real archive


@pytest.fixture(scope="module")
def real() -> list[ImageRow]:
    if not REAL.exists():
        pytest.skip(f"{REAL.name} is not here")
    return list(viper.images(REAL))


def test_the_real_archive_has_two_pictures_of_632_persons(real: list[ImageRow]) -> None:
    assert len(real) == len({row.image_id for row in real}) == 1264
    assert Counter(row.camera_id for row in real) == {"cam_a": 632, "cam_b": 632}
    assert set(Counter(row.person_id for row in real).values()) == {2}
    assert {(row.width, row.height, row.subset, row.factor) for row in real} == {(48, 128, "all", 1)}
    assert [row.image_id for row in real] == sorted(row.image_id for row in real)


def test_the_real_pictures_are_untouched(real: list[ImageRow]) -> None:
    with zipfile.ZipFile(REAL) as archive:
        for row in real:
            assert row.data == archive.read(row.path)
            assert row.path.startswith(f"VIPeR/{row.camera_id}/{row.person_id}_")


@pytest.mark.parametrize("lr_camera", ["cam_a", "cam_b"])
def test_the_real_split_is_316_and_316_persons(real: list[ImageRow], lr_camera: str) -> None:
    frame = keys(real)
    split = plan_split(frame, "viper", MlrParams(lr_camera={"viper": lr_camera}))
    subset = frame.image_id.map({name: role.subset for name, role in split.roles.items()})
    assert Counter(subset) == {"train": 632, "query": 316, "gallery": 316}
    assert frame.person_id[subset == "train"].nunique() == len(split.train_persons) == 316
    assert set(frame.camera_id[subset == "query"]) == {lr_camera}
    assert set(frame.camera_id[subset == "gallery"]) == {"cam_a", "cam_b"} - {lr_camera}
    assert set(frame.person_id[subset == "query"]) == set(frame.person_id[subset == "gallery"])


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
def test_the_hidden_files_of_other_systems_are_no_pictures(tmp_path: Path) -> None:
    extra = {"__MACOSX/VIPeR/cam_a/._000_45.bmp": b"\x00\x05", "VIPeR/cam_a/Thumbs.db": b"x"}
    assert len(list(viper.images(pack(tmp_path / "v.zip", small() | extra)))) == 6


def error_of(archive: Path) -> str:
    """The one-line message; reading writes nothing beside the archive."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(InputError) as caught:
        list(viper.images(archive))
    assert sorted(archive.parent.rglob("*")) == before
    message = str(caught.value)
    assert "\n" not in message
    assert str(archive) in message
    return message


def test_a_missing_archive(tmp_path: Path) -> None:
    assert "does not exist" in error_of(tmp_path / "VIPeR.zip")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_a_file_that_is_no_zip(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "VIPeR.zip").write_bytes(content)
    assert "no whole zip archive" in error_of(tmp_path / "VIPeR.zip")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_zip(tmp_path: Path, kept: float) -> None:
    path = pack(tmp_path / "VIPeR.zip", small())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert "truncated" in error_of(path)


@pytest.mark.parametrize("form", [pack, unpack])
def test_the_archive_of_another_dataset(tmp_path: Path, form: Callable[[Path, Members], Path]) -> None:
    path = form(tmp_path / "CAVIAR4REID.zip", {"CAVIAR4REID/0001001.jpg": b"x"})
    assert "has no file like VIPeR/cam_a/000_45.bmp" in error_of(path)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "VIPeR").mkdir()
    assert "has no file like" in error_of(tmp_path / "VIPeR")


@pytest.mark.usefixtures("three_persons")
def test_a_missing_camera(tmp_path: Path) -> None:
    members = {name: data for name, data in small().items() if "cam_b" not in name}
    message = error_of(pack(tmp_path / "v.zip", members))
    assert "3 pictures of 3 persons instead of 6 of 3" in message
    assert "person 000_cam_b" in message


@pytest.mark.usefixtures("three_persons")
def test_a_missing_picture_names_the_person(tmp_path: Path) -> None:
    members = small()
    del members["VIPeR/cam_a/005_45.bmp"]
    message = error_of(pack(tmp_path / "v.zip", members))
    assert "first missing: person 005_cam_a" in message


@pytest.mark.usefixtures("three_persons")
@pytest.mark.parametrize("persons", [(0, 1), (0, 1, 2, 3)])
def test_too_few_or_too_many_persons(tmp_path: Path, persons: tuple[int, ...]) -> None:
    message = error_of(pack(tmp_path / "v.zip", small(persons)))
    assert f"{2 * len(persons)} pictures of {len(persons)} persons instead of 6 of 3" in message


@pytest.mark.usefixtures("three_persons")
@pytest.mark.parametrize("form", [pack, unpack])
@pytest.mark.parametrize("data", [b"", b"no picture", bitmap(3)[:100]])
def test_a_picture_that_is_none(tmp_path: Path, form: Callable[[Path, Members], Path], data: bytes) -> None:
    path = form(tmp_path / "v", small() | {"VIPeR/cam_b/001_135.bmp": data})
    message = error_of(path)
    assert "VIPeR/cam_b/001_135.bmp is not a readable picture" in message


@pytest.mark.usefixtures("three_persons")
def test_a_member_whose_bytes_changed_since_packing(tmp_path: Path) -> None:
    path = pack(tmp_path / "v.zip", small())
    content = path.read_bytes()
    assert content.count(bitmap(3)) == 1
    changed = bytearray(bitmap(3))
    changed[-1] ^= 1  # one bit of one pixel: still a picture, but not the one that was packed
    path.write_bytes(content.replace(bitmap(3), changed))
    message = error_of(path)
    assert "VIPeR/cam_b/001_135.bmp is damaged (Bad CRC-32" in message


@pytest.mark.usefixtures("three_persons")
def test_a_compressed_member_that_does_not_inflate(tmp_path: Path) -> None:
    path = tmp_path / "v.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in small().items():
            archive.writestr(name, data)
        damaged = archive.getinfo("VIPeR/cam_a/001_45.bmp")
    content = bytearray(path.read_bytes())
    start = damaged.header_offset + 30 + len(damaged.filename)
    content[start : start + damaged.compress_size] = b"\xff" * damaged.compress_size
    path.write_bytes(content)
    assert "VIPeR/cam_a/001_45.bmp is damaged" in error_of(path)


def test_an_archive_lists_files_sorted_and_without_folders(tmp_path: Path) -> None:
    members = {"b/2": b"two", "a/1": b"one"}
    with zipfile.ZipFile(pack(tmp_path / "x.zip", members), "a") as archive:
        archive.mkdir("empty")
    unpack(tmp_path / "x", members)
    (tmp_path / "x/empty").mkdir()
    for path in (tmp_path / "x.zip", tmp_path / "x"):
        with open_archive(path) as opened:
            assert opened.names == ["a/1", "b/2"]
            assert opened.read("a/1") == b"one"


def test_a_member_that_leads_out_of_the_archive_touches_no_file(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    with open_archive(pack(tmp_path / "inside/x.zip", {"../escaped": b"x"})) as opened:
        assert opened.read("../escaped") == b"x"
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
