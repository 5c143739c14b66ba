"""Market-1501: the real training half, and small archives in the official layout, whole and damaged."""

import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from archives import Members, message_of, pack, unpack

from dgrl.datasets import market1501
from dgrl.datasets.archive import Archive
from dgrl.errors import InputError
from dgrl.mlr.protocol import MlrParams, plan_split
from dgrl.tables import KEYS, ImageRow

REAL = Path(__file__).parents[2] / "shared/data/Market-1501-v15.09.15.train-only.zip"
ROOT = "Market-1501-v15.09.15/"


def jpeg(value: int) -> bytes:
    noise = np.random.default_rng(value).integers(0, 256, (12, 6, 3), np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


def boxes(folder: str, person: str, cameras: range = range(1, 7)) -> Members:
    """One image by each camera."""
    return {f"{ROOT}{folder}/{person}_c{c}s1_000451_03.jpg": jpeg(c) for c in cameras}


def small() -> Members:
    """Two training persons, one test person with two queries by each camera, one distractor, one of junk."""
    queries = {
        f"{ROOT}query/0003_c{c}s1_00{frame}_00.jpg": jpeg(c) for c in range(1, 7) for frame in (1051, 1076)
    }
    return {
        f"{ROOT}readme.txt": b"Market",
        f"{ROOT}bounding_box_test/Thumbs.db": b"\xd0\xcf",
        f"{ROOT}gt_bbox/0003_c1s1_000451_00.jpg": b"ignored",
        f"{ROOT}gt_query/0003_c1s1_000451_00_good.mat": b"ignored",
        **boxes("bounding_box_train", "0002"),
        **boxes("bounding_box_train", "0007"),
        **boxes("bounding_box_test", "0003"),
        **boxes("bounding_box_test", "0000", range(1, 3)),
        **boxes("bounding_box_test", "-1", range(1, 4)),
        **queries,
    }


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts of ``small``."""
    official = [(12, 2), (6, 1), (2, 1), (3, 1), (12, 1)]
    monkeypatch.setattr(market1501, "COUNTS", dict(zip(market1501.COUNTS, official, strict=True)))


def error_of(archive: Path, parts: market1501.Parts = "all") -> str:
    return message_of(lambda path: list(market1501.images(path, parts)), archive)


# The real archive


@pytest.fixture(scope="module")
def real() -> list[ImageRow]:
    if not REAL.exists():
        pytest.skip(f"{REAL.name} is not here")
    return list(market1501.images(REAL, "train"))


def test_the_counts_of_the_folders_are_those_of_the_official_page() -> None:
    folders: Counter[str] = Counter()
    for (folder, _), (images, _) in market1501.COUNTS.items():
        folders[folder] += images
    assert folders == {"train": 12936, "test": 19732, "query": 3368}


def test_the_real_training_half_has_12936_images_of_751_persons(real: list[ImageRow]) -> None:
    assert len({row.image_id for row in real}) == len(real) == 12936
    assert len({row.person_id for row in real}) == 751
    assert {row.camera_id for row in real} == set(market1501.CAMERAS)
    assert {(row.width, row.height, row.subset, row.factor) for row in real} == {(64, 128, "train", 1)}
    assert [row.image_id for row in real] == sorted(row.image_id for row in real)
    first = real[0]
    assert (first.image_id, first.person_id, first.camera_id) == ("train_0002_c1s1_000451_03", "0002", "c1")


def test_the_real_images_are_untouched(real: list[ImageRow]) -> None:
    with zipfile.ZipFile(REAL) as archive:
        assert {row.path for row in real} == set(archive.namelist())
        assert all(row.data == archive.read(row.path) for row in real[::100])


def test_the_real_training_half_alone_is_not_taken_for_all(real: list[ImageRow]) -> None:
    message = error_of(REAL)
    assert "no image in bounding_box_test and query; get the whole of Market-1501" in message
    assert "or run on the training half alone with parts: train and mlr.evaluate_on: val" in message


def test_no_real_image_is_lost_with_held_out_persons(real: list[ImageRow]) -> None:
    keys = pd.DataFrame([asdict(row) for row in real])[KEYS]
    params = MlrParams(lr_camera={"market1501": "c1"}, evaluate_on="val")
    split = plan_split(keys, "market1501", params)
    assert len(split.train_persons) + len(split.test_persons) == 751
    tables = Counter(entry.table for entries in split.entries.values() for entry in entries)
    assert tables["train_hr"] == tables["train_lr"]
    assert tables["train_hr"] + tables["query"] + tables["gallery"] == 12936


# Small archives


@pytest.mark.usefixtures("counts")
@pytest.mark.parametrize("form", [pack, unpack])
@pytest.mark.parametrize("root", [ROOT, "", "my/copy/"])
def test_a_whole_archive_is_read_whatever_it_is_called(
    tmp_path: Path, form: Callable[[Path, Members], Path], root: str
) -> None:
    members = {root + name.removeprefix(ROOT): data for name, data in reversed(small().items())}
    rows = list(market1501.images(form(tmp_path / "renamed.bin", members)))
    assert [row.image_id for row in rows] == sorted(row.image_id for row in rows)
    assert len({row.image_id for row in rows}) == 35
    assert all(row.data == members[row.path] for row in rows)
    kinds = Counter((row.image_id.split("_")[0], row.subset, row.person_id) for row in rows)
    assert kinds == {
        ("train", "train", "0002"): 6,
        ("train", "train", "0007"): 6,
        ("test", "test", "0003"): 6,
        ("test", "distractor", "0000"): 2,
        ("test", "junk", "-1"): 3,
        ("query", "query", "0003"): 12,
    }


@pytest.mark.usefixtures("counts")
def test_the_query_folder_has_the_official_queries(tmp_path: Path) -> None:
    rows = market1501.images(pack(tmp_path / "m.zip", small()))
    keys = pd.DataFrame([asdict(row) for row in rows])[KEYS]
    params = MlrParams(lr_camera={"market1501": "c1"}, queries="official")
    split = plan_split(keys, "market1501", params)
    tables: dict[str, list[str]] = {"query": [], "gallery": []}
    for image_id, entries in split.entries.items():
        if len(entries) == 1:
            tables[entries[0].table].append(image_id)
    assert tables == {
        "query": ["query_0003_c1s1_001051_00", "query_0003_c1s1_001076_00"],
        "gallery": ["test_0000_c2s1_000451_03", *(f"test_0003_c{c}s1_000451_03" for c in range(2, 7))],
    }


@pytest.mark.usefixtures("counts")
def test_the_training_half_of_a_whole_archive(tmp_path: Path) -> None:
    path = pack(tmp_path / "m.zip", small() | {f"{ROOT}query/0003_c1s1_001051_00.jpg": b"damaged, not read"})
    rows = list(market1501.images(path, "train"))
    assert Counter((row.subset, row.camera_id) for row in rows) == {
        ("train", camera): 2 for camera in market1501.CAMERAS
    }


@pytest.mark.usefixtures("counts")
def test_images_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path / "m.zip", small())
    reads: list[str] = []
    original = Archive.read

    def read(self: Archive, name: str) -> bytes:
        reads.append(name)
        return original(self, name)

    monkeypatch.setattr(Archive, "read", read)
    rows: list[ImageRow] = list(islice(market1501.images(path), 3))
    assert reads == [row.path for row in rows]


@pytest.mark.usefixtures("counts")
@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("bounding_box_test", "no image in bounding_box_test; get"),
        ("query", "no image in query; get"),
        ("bounding_box_train", "no image in bounding_box_train; get the whole of Market-1501"),
    ],
)
def test_a_missing_folder(tmp_path: Path, folder: str, said: str) -> None:
    members = {name: data for name, data in small().items() if f"/{folder}/" not in name}
    assert said in error_of(pack(tmp_path / "m.zip", members))


@pytest.mark.parametrize("form", [pack, unpack])
@pytest.mark.parametrize("other", ["VIPeR/cam_a/000_45.bmp", "bounding_box_train/0001_c2_f0046182.jpg"])
def test_the_archive_of_another_dataset(
    tmp_path: Path, form: Callable[[Path, Members], Path], other: str
) -> None:
    message = error_of(form(tmp_path / "Market-1501-v15.09.15.zip", {other: b"x"}))
    assert "no file like Market-1501-v15.09.15/bounding_box_train/0002_c1s1_000451_03.jpg" in message
    assert f"(its first is {other})" in message


def test_the_hidden_files_of_other_systems_are_no_images(tmp_path: Path) -> None:
    path = pack(tmp_path / "m.zip", {"__MACOSX/bounding_box_train/._0002_c1s1_000451_03.jpg": b"x"})
    assert "no file like" in error_of(path)


@pytest.mark.usefixtures("counts")
@pytest.mark.parametrize("form", [pack, unpack])
def test_an_image_twice(tmp_path: Path, form: Callable[[Path, Members], Path]) -> None:
    name = "query/0003_c1s1_001051_00.jpg"
    message = error_of(form(tmp_path / "m", small() | {f"copy/{name}": jpeg(9)}))
    assert f"image query_0003_c1s1_001051_00 twice ({ROOT}{name}, copy/{name}); keep one" in message


@pytest.mark.usefixtures("counts")
@pytest.mark.parametrize("folder", ["bounding_box_train", "query"])
def test_a_missing_camera(tmp_path: Path, folder: str) -> None:
    members = {name: data for name, data in small().items() if f"/{folder}/" not in name or "_c4" not in name}
    assert f"no image of camera c4 in {folder}" in error_of(pack(tmp_path / "m.zip", members))


@pytest.mark.usefixtures("counts")
@pytest.mark.parametrize("form", [pack, unpack])
def test_an_empty_image(tmp_path: Path, form: Callable[[Path, Members], Path]) -> None:
    name = f"{ROOT}bounding_box_train/0007_c2s1_000451_03.jpg"
    assert f"{name} is empty (0 bytes)" in error_of(form(tmp_path / "m", small() | {name: b""}))


@pytest.mark.usefixtures("counts")
@pytest.mark.parametrize("data", [b"no image", jpeg(1)[:100]])
def test_an_image_that_is_none(tmp_path: Path, data: bytes) -> None:
    name = f"{ROOT}bounding_box_train/0007_c2s1_000451_03.jpg"
    assert f"{name} is not a readable image" in error_of(pack(tmp_path / "m.zip", small() | {name: data}))


@pytest.mark.usefixtures("counts")
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("bounding_box_train/0007_c2s1_000451_03.jpg", "bounding_box_train has 11 images of 2 persons"),
        ("bounding_box_test/0003_c2s1_000451_03.jpg", "has 5 images of 1 persons (subset test)"),
        ("bounding_box_test/0000_c2s1_000451_03.jpg", "has 1 images of 1 persons (subset distractor)"),
        ("bounding_box_test/-1_c2s1_000451_03.jpg", "has 2 images of 1 persons (subset junk)"),
        ("query/0003_c2s1_001051_00.jpg", "query has 11 images of 1 persons (subset query) instead of 12"),
    ],
)
def test_a_missing_image(tmp_path: Path, changed: str, said: str) -> None:
    members = small()
    del members[ROOT + changed]
    assert said in error_of(pack(tmp_path / "m.zip", members))


@pytest.mark.usefixtures("counts")
def test_a_person_too_many(tmp_path: Path) -> None:
    members = small()
    name = f"{ROOT}bounding_box_train/0007_c2s1_000451_03.jpg"
    members[name.replace("0007", "0009")] = members.pop(name)
    message = error_of(pack(tmp_path / "m.zip", members))
    assert "12 images of 3 persons (subset train) instead of 12 of 2" in message


def test_the_official_counts_hold_for_a_small_archive_too(tmp_path: Path) -> None:
    assert "instead of 12936 of 751" in error_of(pack(tmp_path / "m.zip", small()), "train")


def test_parts_is_all_or_train() -> None:
    assert market1501.Market1501Params() == market1501.Market1501Params(archive=None, parts="all")
    with pytest.raises(InputError, match=r"market\.parts = 'test'"):
        market1501.Market1501Params.parse({"parts": "test"}, "market")
