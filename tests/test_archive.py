"""Zip files and folders as archives: whole, damaged in every byte, encrypted, ambiguous."""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import archives
import cv2
import numpy as np
import pytest
from archives import Members, message_of

from dgrl.datasets.archive import Member, open_archive
from dgrl.errors import InputError

NAMES = ("a/1.png", "b/2.png")


def image(value: int) -> bytes:
    return cv2.imencode(".png", np.full((4, 2, 3), value, np.uint8))[1].tobytes()


CONTENT = {name: image(value) for value, name in enumerate(NAMES)}


def pack(folder: Path, members: Members = CONTENT, compression: int = zipfile.ZIP_STORED) -> Path:
    return archives.pack(folder / "x.zip", members, compression)


def unpack(folder: Path, members: Members = CONTENT) -> Path:
    return archives.unpack(folder / "x", members)


def contents(path: Path) -> dict[str, bytes]:
    with open_archive(path) as opened:
        return {name: opened.read(name) for name in opened.names}


def parse(name: str) -> Member | None:
    """``a/1.png`` is person 1 seen by camera a."""
    camera, _, file = name.partition("/")
    return Member(file.removesuffix(".png"), file[0], camera, "all", name) if name.endswith("png") else None


@pytest.mark.parametrize("form", [pack, unpack])
def test_files_are_sorted_and_folders_left_out(tmp_path: Path, form: Callable[..., Path]) -> None:
    path = form(tmp_path, dict(reversed(CONTENT.items())))
    if path.is_dir():
        (path / "empty").mkdir()
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.mkdir("empty")
    assert list(contents(path).items()) == list(CONTENT.items())


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_compression_is_read(tmp_path: Path, compression: int) -> None:
    assert contents(pack(tmp_path, compression=compression)) == CONTENT


def test_a_member_that_leads_out_of_the_archive_touches_no_file(tmp_path: Path) -> None:
    assert contents(pack(tmp_path, {"../escaped": b"x"})) == {"../escaped": b"x"}
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]
    assert not (tmp_path.parent / "escaped").exists()


def test_a_row_has_the_bytes_of_the_file(tmp_path: Path) -> None:
    with open_archive(pack(tmp_path)) as opened:
        row = opened.row(Member("id", "ann", "door", "test", NAMES[1]))
    assert (row.image_id, row.person_id, row.camera_id, row.subset) == ("id", "ann", "door", "test")
    assert (row.data, row.path, row.width, row.height, row.factor) == (image(1), NAMES[1], 2, 4, 1)


def test_images_are_sorted_by_image_id_and_other_files_left_out(tmp_path: Path) -> None:
    members = {"z/1.png": b"", "a/2.png": b"", "readme.txt": b""}
    with open_archive(pack(tmp_path, members)) as opened:
        assert [found.name for found in opened.members(parse, "a/1.png")] == ["z/1.png", "a/2.png"]


# Bad archives


def test_a_missing_archive(tmp_path: Path) -> None:
    assert "does not exist; put the archive there" in message_of(contents, tmp_path / "x.zip")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_a_file_that_is_no_zip(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    assert "no whole zip archive" in message_of(contents, tmp_path / "x.zip")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_zip(tmp_path: Path, kept: float) -> None:
    path = pack(tmp_path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert "truncated" in message_of(contents, path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_damaged_byte_gives_the_right_image_or_an_error(tmp_path: Path, compression: int) -> None:
    path = pack(tmp_path, compression=compression)
    whole = path.read_bytes()
    errors = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            found = contents(path)
        except InputError:
            errors += 1
        else:
            assert set(found.values()) <= set(CONTENT.values())
    assert errors > len(CONTENT[NAMES[0]])


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    path = pack(tmp_path)
    changed = bytearray(image(1))
    changed[-1] ^= 1  # one bit: perhaps still an image, but not the one that was packed
    path.write_bytes(path.read_bytes().replace(image(1), changed))
    message = message_of(contents, path)
    assert "b/2.png cannot be read (Bad CRC-32" in message
    assert "get the archive again" in message


@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [(6, 1, "File 'b/2.png' is encrypted"), (8, 97, "compression method is not supported")],
)
def test_a_member_that_cannot_be_unpacked(tmp_path: Path, offset: int, value: int, said: str) -> None:
    path = pack(tmp_path)
    content = bytearray(path.read_bytes())
    local, central = content.rfind(b"PK\x03\x04"), content.rfind(b"PK\x01\x02")
    struct.pack_into("<H", content, local + offset, value)  # flags or method of the last member
    struct.pack_into("<H", content, central + offset + 2, value)
    path.write_bytes(content)
    message = message_of(contents, path)
    assert "b/2.png cannot be unpacked" in message
    assert said in message
    assert "give the folder" in message


def test_two_files_of_the_same_name(tmp_path: Path) -> None:
    path = pack(tmp_path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("b/2.png", b"x")
    assert "has two files called b/2.png" in message_of(contents, path)


@pytest.mark.parametrize("form", [pack, unpack])
def test_two_images_of_the_same_id(tmp_path: Path, form: Callable[..., Path]) -> None:
    def read(path: Path) -> None:
        with open_archive(path) as opened:
            opened.members(parse, "a/1.png")

    path = form(tmp_path, {"a/1.png": b"", "b/1.png": b""})
    assert "has image 1 twice (a/1.png, b/1.png); keep one" in message_of(read, path)


@pytest.mark.parametrize("form", [pack, unpack])
@pytest.mark.parametrize(
    ("members", "held"), [({"VIPeR/x.bmp": b""}, "its first is VIPeR/x.bmp"), ({}, "it is empty")]
)
def test_an_archive_of_another_dataset(
    tmp_path: Path, form: Callable[..., Path], members: dict[str, bytes], held: str
) -> None:
    def read(path: Path) -> None:
        with open_archive(path) as opened:
            opened.members(parse, "a/1.png")

    (tmp_path / "x").mkdir()
    message = message_of(read, form(tmp_path, members))
    assert f"has no file like a/1.png ({held}); give the official archive" in message


@pytest.mark.parametrize("form", [pack, unpack])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "a/1.png is empty (0 bytes); restore the file"),
        (b"no image", "a/1.png is not a readable image; restore the file"),
        (image(0)[:60], "a/1.png is not a readable image; restore the file"),
    ],
)
def test_an_image_that_is_none(tmp_path: Path, form: Callable[..., Path], data: bytes, said: str) -> None:
    def read(path: Path) -> None:
        with open_archive(path) as opened:
            opened.row(Member("1", "1", "a", "all", "a/1.png"))

    assert said in message_of(read, form(tmp_path, {"a/1.png": data}))
