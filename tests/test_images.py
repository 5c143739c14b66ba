"""Images: whole ones decode as OpenCV decodes them; cut and huge ones are refused."""

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from dgrl.errors import InputError
from dgrl.images import decode, image_size, read_image

NOISE = np.random.default_rng(0).integers(0, 255, (60, 40, 3), np.uint8)


def encoded(kind: str) -> bytes:
    suffix, _, progressive = kind.partition(" ")
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1] if progressive else []
    return cv2.imencode(suffix, NOISE, options)[1].tobytes()


@pytest.mark.parametrize("kind", [".jpg", ".jpg progressive", ".png", ".bmp", ".webp", ".tiff"])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_a_cut_image_is_refused(kind: str, end: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    whole = encoded(kind)
    expected: Any = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decode(whole, "a"), expected[:, :, ::-1])
    for part in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9):
        with pytest.raises(InputError, match="victim"):
            decode(whole[: int(len(whole) * part)] + end, "victim")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 2}], ids=str)
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_anywhere_and_ended_is_refused(
    mode: str, options: dict[str, int], progressive: bool
) -> None:
    """Between two scans, too, where the decoder has nothing to complain about."""
    file = io.BytesIO()
    PIL.Image.fromarray(NOISE).convert(mode).save(file, "JPEG", progressive=progressive, **options)
    whole = file.getvalue()
    expected = decode(whole, "whole")
    scans = [place for place in range(len(whole)) if whole[place : place + 2] in (b"\xff\xda", b"\xff\xc4")]
    for end in {*scans, *range(100, len(whole) - 2, 97)}:
        with pytest.raises(InputError, match="victim"):
            decode(whole[:end] + b"\xff\xd9", "victim")
    np.testing.assert_array_equal(decode(whole + b"\xff\xd9 and more", "more"), expected)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(b"no profile")),
        chunk(b"gAMA", b"\0"),
        chunk(b"tEXt", b""),
        chunk(b"bKGD", b"\0" * 9),
        chunk(b"tIME", b"\xff" * 7)[:-1] + b"?",
    ],
)
def test_libpng_prints_no_line_of_an_odd_chunk(extra: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    whole = encoded(".png")
    odd = whole[:33] + extra + whole[33:]  # after the header
    np.testing.assert_array_equal(decode(odd, "odd"), NOISE[:, :, ::-1])
    assert image_size(odd, "odd") == image_size(whole, "whole")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_damaged_image_prints_no_line_of_a_library(suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    whole = encoded(suffix)
    for place in range(8, len(whole), 41):
        with contextlib.suppress(InputError):
            decode(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :], "damaged")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_huge_image_is_refused_from_its_header(kind: str) -> None:
    file = io.BytesIO()
    PIL.Image.new("1", (10_000, 10_000)).save(file, kind)
    with pytest.raises(InputError, match="victim has 10000x10000 pixels, over the limit of 67108864"):
        decode(file.getvalue(), "victim")


@pytest.mark.parametrize("form", ["PNG", "PPM", "BMP", "TIFF"])
def test_an_image_wider_than_opencv_takes_is_refused(form: str) -> None:
    file = io.BytesIO()
    PIL.Image.new("L", (1_100_000, 1)).save(file, form)
    with pytest.raises(InputError, match="victim is not a readable image"):
        decode(file.getvalue(), "victim")


def test_a_file_is_looked_at_before_it_is_read(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe.png", tmp_path / "large.png"
    os.mkfifo(pipe)
    large.touch()
    os.truncate(large, 3 << 30)  # sparse: it takes no room
    for path, said in (
        (pipe, "is no file"),
        (large, f"has {3 << 30} bytes, more than the limit of 268435456"),
    ):
        with pytest.raises(InputError, match=said):
            read_image(path)
    with pytest.raises(InputError, match="null byte"):
        read_image(tmp_path / "a\0")


def test_the_size_is_read_from_the_header() -> None:
    for kind in (".jpg", ".png", ".bmp", ".webp", ".tiff"):
        assert image_size(encoded(kind), "a") == (40, 60)
    file = io.BytesIO()
    PIL.Image.new("RGB", (40, 60)).save(file, "PCX")  # which decode does not know either
    with pytest.raises(InputError, match="a is not a readable image"):
        image_size(file.getvalue(), "a")
