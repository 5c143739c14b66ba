"""Images and image tables: lossless, reproducible to the byte, whole or not there at all."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from dgrl import tables
from dgrl.errors import InputError
from dgrl.images import decode, encode_png, pixel_sha256
from dgrl.tables import KEYS, ImageRow, read_keys, read_rows, shards, write_shard, write_table

Pixels = npt.NDArray[np.uint8]
PIXELS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=6).map(lambda shape: (*shape, 3)))


def photo(height: int = 40, width: int = 24) -> Pixels:
    """Smooth blobs and some noise, so that every format has something to compress."""
    rng = np.random.default_rng(0)
    blobs = cv2.resize(rng.integers(0, 256, (5, 3, 3), np.uint8), (width, height))
    noise = rng.integers(0, 20, (height, width, 3), np.uint8)
    return np.maximum(blobs, 20).astype(np.uint8) - noise


def encoded(pixels: Pixels, extension: str, *options: int) -> bytes:
    done, data = cv2.imencode(extension, pixels[:, :, ::-1], options)
    assert done
    return data.tobytes()


def rows(count: int) -> list[ImageRow]:
    rng = np.random.default_rng(count)
    return [
        ImageRow.from_pixels(
            rng.integers(0, 256, (3 + index % 2, 2, 3), np.uint8),
            f"{index:04d}.png",
            image_id=f"{index:04d}",
            person_id=str(index // 2),
            camera_id=f"c{index % 2}",
            subset="all",
            factor=1 + index % 4,
        )
        for index in range(count)
    ]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


# Images


@settings(deadline=None)
@given(PIXELS)
def test_png_is_lossless(pixels: Pixels) -> None:
    data = encode_png(pixels)
    assert data.startswith(b"\x89PNG")
    np.testing.assert_array_equal(decode(data, "image"), pixels)


def test_decoded_images_are_rgb() -> None:
    red = np.zeros((2, 3, 3), np.uint8)
    red[:, :, 0] = 255
    # The bytes of a red 24-bit bitmap, 3 x 2, written by hand: BMP stores blue first, rows padded to 4 bytes.
    header = b"BM" + (78).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    info = [(40, 4), (3, 4), (2, 4), (1, 2), (24, 2), (0, 4), (24, 4), (0, 4), (0, 4), (0, 4), (0, 4)]
    bitmap = header + b"".join(value.to_bytes(size, "little") for value, size in info)
    bitmap += (b"\x00\x00\xff" * 3 + bytes(3)) * 2
    np.testing.assert_array_equal(decode(bitmap, "red.bmp"), red)


def test_grey_transparent_and_deep_images_become_rgb_bytes() -> None:
    pixels = photo()
    alpha = np.full((*pixels.shape[:2], 1), 7, np.uint8)
    grey = cv2.imencode(".png", pixels[:, :, 0])[1].tobytes()
    transparent = cv2.imencode(".png", np.dstack([pixels[:, :, ::-1], alpha]))[1].tobytes()
    deep = cv2.imencode(".png", pixels[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes()
    np.testing.assert_array_equal(decode(grey, "grey"), np.dstack([pixels[:, :, 0]] * 3))
    np.testing.assert_array_equal(decode(transparent, "transparent"), pixels)
    np.testing.assert_array_equal(decode(deep, "deep"), pixels)


@pytest.mark.parametrize("data", [b"", b"\x00" * 100, b"not an image at all", b"\x89PNG\r\n\x1a\n"])
def test_bytes_that_are_no_image_are_named(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^cam_a/000\.bmp is not a readable image; .*source$"):
        decode(data, "cam_a/000.bmp")


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    ("extension", "options"),
    [(".png", ()), (".jpg", ()), (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)), (".bmp", ())],
)
def test_a_truncated_image_is_no_image(extension: str, options: tuple[int, ...], kept: float) -> None:
    data = encoded(photo(), extension, *options)
    with pytest.raises(InputError, match="half is not a readable image"):
        decode(data[: int(len(data) * kept)], "half")


def test_a_flipped_byte_in_a_png_is_noticed() -> None:
    data = bytearray(encode_png(photo()))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(InputError, match="not a readable image"):
        decode(bytes(data), "damaged")


def test_equal_pixels_have_equal_digests_whatever_the_format() -> None:
    pixels = photo()
    digests = {
        pixel_sha256(decode(encoded(pixels, extension), "p")) for extension in (".png", ".bmp", ".tiff")
    }
    assert (
        digests == {pixel_sha256(pixels)} == {hashlib.sha256(b"(40, 24, 3)" + pixels.tobytes()).hexdigest()}
    )
    assert pixel_sha256(decode(encoded(pixels, ".jpg"), "p")) not in digests


def test_equal_bytes_of_another_shape_have_another_digest() -> None:
    pixels = photo(6, 4)
    assert pixel_sha256(pixels) != pixel_sha256(pixels.reshape(4, 6, 3))


def test_the_digest_does_not_depend_on_the_memory_layout() -> None:
    pixels = photo()
    assert pixel_sha256(pixels[::-1][::-1]) == pixel_sha256(np.asfortranarray(pixels)) == pixel_sha256(pixels)


# Tables


@pytest.mark.parametrize("count", [1, 4, 5, 12])
def test_a_table_gives_back_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_SHARD", 4)
    written = rows(count)
    assert write_table(tmp_path / "t", iter(written)) == count
    assert list(read_rows(tmp_path / "t")) == written
    expected = [f"part-{index:05d}.parquet" for index in range(-(-count // 4))]
    assert sorted(files(tmp_path / "t")) == expected == [path.name for path in shards(tmp_path / "t")]


def sized(*sizes: int) -> list[ImageRow]:
    return [replace(row, data=bytes(size)) for row, size in zip(rows(len(sizes)), sizes, strict=True)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([50, 50, 1, 99, 1], [2, 2, 1]),  # 100 bytes fill a shard
        ([99, 2, 98], [1, 2]),
        ([500, 1, 500], [1, 1, 1]),  # an image above the bound has a shard of its own
        ([1] * 9, [4, 4, 1]),
    ],
)
def test_shards_and_row_groups_are_bounded_in_rows_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int], expected: list[int]
) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_SHARD", 4)
    monkeypatch.setattr(tables, "BYTES_PER_SHARD", 100)
    written = sized(*sizes)
    write_table(tmp_path / "t", iter(written))
    assert [pq.read_metadata(path).num_rows for path in shards(tmp_path / "t")] == expected
    write_shard(tmp_path / "part-0.parquet", written)
    metadata = pq.read_metadata(tmp_path / "part-0.parquet")
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert groups == expected
    for source in (tmp_path / "t", tmp_path / "part-0.parquet"):
        assert list(read_rows(source)) == written
        assert list(read_keys(source).image_id) == [row.image_id for row in written]


def test_a_shard_without_rows_can_be_read(tmp_path: Path) -> None:
    shard = tmp_path / "part-0.parquet"
    write_shard(shard, [])
    assert list(read_rows(shard)) == []
    assert list(read_keys(shard).columns) == KEYS
    write_shard(tmp_path / "part-1.parquet", rows(3))
    assert list(read_rows(tmp_path)) == rows(3)


def test_one_shard_can_be_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_SHARD", 4)
    write_table(tmp_path / "t", rows(10))
    assert list(read_rows(shards(tmp_path / "t")[1])) == rows(10)[4:8]


def test_the_keys_are_every_column_but_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_SHARD", 4)
    write_table(tmp_path / "t", rows(10))
    keys = read_keys(tmp_path / "t")
    assert list(keys.columns) == KEYS
    assert list(keys.index) == list(range(10))
    for name in KEYS:
        assert list(keys[name]) == [getattr(row, name) for row in rows(10)]


def test_equal_rows_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_SHARD", 4)
    write_table(tmp_path / "one", rows(10))
    write_table(tmp_path / "deep/er/two", iter(rows(10)))
    assert files(tmp_path / "one") == files(tmp_path / "deep/er/two")


def test_a_shorter_table_leaves_no_shard_of_the_longer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_SHARD", 2)
    write_table(tmp_path / "t", rows(7))
    write_table(tmp_path / "t", rows(3))
    assert len(list(read_rows(tmp_path / "t"))) == 3


@pytest.mark.parametrize("good", [0, 5])
def test_rows_that_fail_in_the_middle_leave_the_old_table_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_SHARD", 2)
    write_table(tmp_path / "t", rows(7))
    before = files(tmp_path)

    def failing() -> Iterator[ImageRow]:
        yield from rows(good)
        raise InputError("person 3 is damaged")

    with pytest.raises(InputError, match="person 3"):
        write_table(tmp_path / "t", failing())
    with pytest.raises(InputError, match="person 3"):
        write_table(tmp_path / "new", failing())
    assert files(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_rows_are_consumed_a_shard_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_SHARD", 2)
    consumed: list[str] = []
    on_disk: list[int] = []
    real = tables.write_shard

    def write_shard(path: Path, shard: list[ImageRow]) -> None:
        on_disk.append(len(consumed))
        real(path, shard)

    def lazy() -> Iterator[ImageRow]:
        for row in rows(5):
            consumed.append(row.image_id)
            yield row

    monkeypatch.setattr(tables, "write_shard", write_shard)
    write_table(tmp_path / "t", lazy())
    assert on_disk == [3, 5, 5]  # one row ahead: whether it fits is known by its size


def test_the_schema_tells_hugging_face_that_the_column_is_an_image(tmp_path: Path) -> None:
    write_table(tmp_path / "t", rows(2))
    schema = pq.read_schema(shards(tmp_path / "t")[0])
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"]["_type"] == "Image"
    assert schema.field("image").nullable  # as datasets' own type is; it cannot cast the column else


def test_plain_pyarrow_and_pandas_read_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_SHARD", 2)
    write_table(tmp_path / "t", rows(5))
    arrow = pq.ParquetDataset(tmp_path / "t").read()
    frame = pd.read_parquet(tmp_path / "t")
    assert arrow.column("image_id").to_pylist() == list(frame.image_id) == [row.image_id for row in rows(5)]
    assert set(frame.columns) == {field.name for field in fields(ImageRow)} - {"data", "path"} | {"image"}
    for image, row in zip(frame.image, rows(5), strict=True):
        assert image["path"] == row.path
        np.testing.assert_array_equal(decode(image["bytes"], "p"), row.pixels())


def test_a_row_describes_its_image() -> None:
    pixels = photo(9, 5)
    names: Any = {"image_id": "a", "person_id": "1", "camera_id": "c", "subset": "all"}
    own = ImageRow.from_pixels(pixels, "a.png", **names, factor=1)
    given_bytes = ImageRow.from_pixels(pixels, "a.bmp", **names, factor=1, data=encoded(pixels, ".bmp"))
    assert (own.width, own.height) == (5, 9)
    assert own.pixel_sha256 == given_bytes.pixel_sha256 == pixel_sha256(pixels)
    assert given_bytes.data == encoded(pixels, ".bmp")
    np.testing.assert_array_equal(own.pixels(), pixels)
    np.testing.assert_array_equal(given_bytes.pixels(), pixels)


def test_a_damaged_image_in_a_table_is_named() -> None:
    row = ImageRow("0001_c1", "0001", "c1", "all", 1, 5, 9, "", b"garbage", "VIPeR/1.bmp")
    with pytest.raises(InputError, match=r"VIPeR/1\.bmp \(0001_c1\) is not a readable image"):
        row.pixels()


@pytest.mark.parametrize("read", [shards, read_keys, lambda folder: list(read_rows(folder))])
def test_a_folder_without_shards_is_no_table(tmp_path: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / "notes.txt").touch()
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=f"^{folder} holds no table; write it first"):
            read(folder)
