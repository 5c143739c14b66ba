"""Images: whole ones decode as OpenCV decodes them; cut and huge ones are refused."""

import io

import cv2
import numpy as np
import PIL.Image
import pytest

from dgrl.errors import InputError
from dgrl.images import decode

NOISE = np.random.default_rng(0).integers(0, 255, (60, 40, 3), np.uint8)


def encoded(kind: str) -> bytes:
    suffix, _, progressive = kind.partition(" ")
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1] if progressive else []
    return cv2.imencode(suffix, NOISE, options)[1].tobytes()


@pytest.mark.parametrize("kind", [".jpg", ".jpg progressive", ".png", ".bmp", ".webp", ".tiff"])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_a_cut_image_is_refused(kind: str, end: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    whole = encoded(kind)
    expected = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    np.testing.assert_array_equal(decode(whole, "a"), expected)
    for part in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9):
        with pytest.raises(InputError, match="victim"):
            decode(whole[: int(len(whole) * part)] + end, "victim")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_huge_image_is_refused_from_its_header(kind: str) -> None:
    file = io.BytesIO()
    PIL.Image.new("1", (10_000, 10_000)).save(file, kind)
    with pytest.raises(InputError, match="victim has 10000x10000 pixels, over the limit of 67108864"):
        decode(file.getvalue(), "victim")
