"""Zip files and folders as archives: whole, damaged in every byte, encrypted, ambiguous."""

import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import archives
import cv2
import numpy as np
import pytest
from archives import Members, message_of

from dgrl.datasets.archive import Member, open_archive, require_readable
from dgrl.errors import InputError
from dgrl.limits import Limits

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


def forge(path: Path, **fields: int) -> None:
    """Change fields of the last member's headers (APPNOTE 4.3.7 and 4.3.12)."""
    offsets = {"flags": 6, "method": 8, "packed": 18, "size": 22, "name": 26, "extra": 28}
    content = bytearray(path.read_bytes())
    local, central = content.rfind(b"PK\x03\x04"), content.rfind(b"PK\x01\x02")
    for name, value in fields.items():
        form = "<I" if name in ("packed", "size") else "<H"
        struct.pack_into(form, content, local + offsets[name], value)
        struct.pack_into(form, content, central + offsets[name] + 2, value)
    path.write_bytes(content)


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder of a user who may not read everything, as root may."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        with TemporaryDirectory() as folder:
            yield Path(folder)
    finally:
        os.seteuid(user)


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
    ("field", "value", "said"),
    [("flags", 1, "File 'b/2.png' is encrypted"), ("method", 97, "compression method is not supported")],
)
def test_a_member_that_cannot_be_unpacked(tmp_path: Path, field: str, value: int, said: str) -> None:
    path = pack(tmp_path)
    forge(path, **{field: value})
    message = message_of(contents, path)
    assert "b/2.png cannot be unpacked" in message
    assert said in message
    assert "give the folder" in message


def test_a_member_asked_for_under_another_spelling(tmp_path: Path) -> None:
    """Where a path is tidied on the way: a//1.png is a/1.png in a folder, but not in a zip file."""
    with open_archive(pack(tmp_path, {"a//1.png": image(1)})) as opened:
        said = message_of(lambda _: opened.read("a/1.png"), tmp_path / "x.zip")
    assert "a/1.png is there under another spelling" in said


def test_two_files_of_the_same_name(tmp_path: Path) -> None:
    path = pack(tmp_path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("b/2.png", b"x")
    assert "has two files called b/2.png" in message_of(contents, path)


# Sizes


def test_a_member_over_the_limit_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = pack(tmp_path, compression=zipfile.ZIP_DEFLATED)
    forge(path, size=3 << 30, packed=3 << 30)
    tracemalloc.start()
    message = message_of(contents, path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
    assert f"b/2.png has {3 << 30} bytes, more than the limit of {Limits().file_bytes}" in message


def test_a_file_of_a_folder_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = unpack(tmp_path)
    os.truncate(path / "b/2.png", 3 << 30)  # sparse: it takes no room
    assert f"b/2.png has {3 << 30} bytes, more than the limit" in message_of(contents, path)


def test_a_member_that_grows_too_much_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path, {"a.png": bytes(1 << 24)}, zipfile.ZIP_DEFLATED)
    packed = zipfile.ZipFile(path).infolist()[0].compress_size
    message = message_of(contents, path)
    assert f"a.png unpacks from {packed} to {1 << 24} bytes, more than the limit of 1000 to 1" in message


def test_a_member_that_understates_its_size_takes_no_memory(tmp_path: Path) -> None:
    path = pack(tmp_path, {"a.png": bytes(1 << 26)}, zipfile.ZIP_DEFLATED)
    forge(path, size=100)
    tracemalloc.start()
    message = message_of(contents, path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
    assert "a.png cannot be read (Bad CRC-32" in message


# Names


@pytest.mark.parametrize("form", [pack, unpack])
def test_hidden_files_are_left_out(tmp_path: Path, form: Callable[..., Path]) -> None:
    hidden = dict.fromkeys(["__MACOSX/a/._1.png", "a/._1.png", ".DS_Store", ".git/1.png"], b"x")
    assert contents(form(tmp_path, CONTENT | hidden)) == CONTENT


def pack_named(folder: Path, name: bytes) -> Path:
    """A zip file with a member whose name zipfile would not write."""
    path = pack(folder, CONTENT | {"zzzz": b"x"})
    path.write_bytes(path.read_bytes().replace(b"zzzz", name.ljust(4, b"\0")))
    forge(path, flags=0x800, name=len(name), extra=4 - len(name))  # flags: the name is UTF-8
    return path


@pytest.mark.parametrize("name", ["", "a\nb", "a\rb", "a\0b", "\x1b[3", "a\u2028"])
def test_a_name_that_no_table_can_hold(tmp_path: Path, name: str) -> None:
    message = message_of(contents, pack_named(tmp_path, name.encode()))
    assert f"has a file called {name!r}, which no table can hold; rename it" in message


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    message = message_of(contents, pack_named(tmp_path, b"a\xff\xfe"))
    assert r"has a file called b'a\xff\xfe', not in UTF-8; rename it" in message
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a\udcff").touch()  # how Python has the byte 0xff
    assert r"has a file called 'a\udcff', which no table can hold" in message_of(contents, tmp_path / "x")


def test_a_name_of_another_alphabet_is_read(tmp_path: Path) -> None:
    members = {"\u4eba\u3000\u7269/\u00e9.png": b"x"}  # with an ideographic space
    assert contents(pack(tmp_path, members)) == contents(unpack(tmp_path, members)) == members


# What may not be read, and links


def test_what_may_not_be_read_is_not_called_damaged() -> None:
    with unprivileged() as home:
        packed, folder = pack(home), unpack(home)
        for path, archive in ((packed, packed), (folder / "a", folder), (folder / "b/2.png", folder)):
            path.chmod(0)
            message = message_of(contents, archive)
            path.chmod(0o700)
            assert f"{path} cannot be read (Permission denied); give yourself the right" in message
        folder.chmod(0)
        assert f"{folder} cannot be read (Permission denied)" in message_of(contents, folder)
        home.chmod(0)
        with pytest.raises(InputError, match="Permission denied"):
            contents(folder)
        home.chmod(0o700)
        folder.chmod(0o700)


@pytest.mark.parametrize("target", ["a", ".", "..", "/", "nowhere"])
def test_a_link_to_a_folder_or_to_nothing_is_named(tmp_path: Path, target: str) -> None:
    folder = unpack(tmp_path)
    (folder / "c").symlink_to(target)
    message = message_of(contents, folder)
    assert f"'{folder / 'c'}' is a link to a folder or to nothing; put the folder or file itself" in message


def test_the_folder_itself_and_its_files_may_be_links(tmp_path: Path) -> None:
    folder = unpack(tmp_path)
    (folder / "c.png").symlink_to(folder / "a/1.png")
    (tmp_path / "link").symlink_to(folder)
    assert contents(tmp_path / "link") == CONTENT | {"c.png": CONTENT["a/1.png"]}


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


def test_what_is_neither_a_file_nor_a_folder_is_named(tmp_path: Path) -> None:
    os.mkfifo(unpack(tmp_path) / "a/3.png")
    assert "/a/3.png' is neither a file nor a folder; remove it" in message_of(contents, tmp_path / "x")


@pytest.mark.parametrize("read", [contents, require_readable])
def test_a_pipe_is_not_waited_for(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    assert message_of(read, tmp_path / "pipe.zip").endswith("pipe.zip is a pipe; give a file")
