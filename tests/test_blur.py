"""Pages to share: of the upper half of an image a few mean colours, and no byte of the original."""

import base64
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_images import smooth_image
from small_report import small_report

from dgrl.errors import InputError
from dgrl.images import Image, decode, encode_jpeg, encode_png
from dgrl.random import named_generator
from dgrl.report.page import data_uri
from dgrl.report.render import render
from dgrl.search.answers import Answer, Match
from dgrl.search.blur import blur_faces, blur_upper_half
from dgrl.search.sheet import render_sheet


def noise(*name: Any, height: int = 128, width: int = 48) -> Image:
    """Detail everywhere: each pixel differs from its neighbours."""
    return named_generator("blur", *name).integers(0, 256, (height, width, 3)).astype(np.uint8)


def images_of(page: str) -> list[Image]:
    found = re.findall(r"data:image/(?:png|jpeg);base64,([^\"']+)", page)
    return [decode(base64.b64decode(each), "an image of the page") for each in found]


def detail(image: Image) -> float:
    """Mean absolute difference of neighbours."""
    values = image.astype(float)
    return float(np.abs(np.diff(values, axis=0)).mean() + np.abs(np.diff(values, axis=1)).mean())


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 9))
def test_the_lower_half_stays(height: int, width: int, seed: int) -> None:
    image = noise(seed, height=height, width=width)
    blurred = blur_upper_half(image)
    assert blurred.shape == image.shape
    np.testing.assert_array_equal(blurred[-(-height // 2) :], image[-(-height // 2) :])


def test_two_faces_with_the_same_mean_colours_look_the_same() -> None:
    one = noise("face")
    other = one.copy()
    for top in range(0, 64, 8):  # each cell of 8 by 12 pixels turned by 180 degrees
        for left in range(0, 48, 12):
            other[top : top + 8, left : left + 12] = one[top : top + 8, left : left + 12][::-1, ::-1]
    assert (one[:64] != other[:64]).mean() > 0.9
    np.testing.assert_array_equal(blur_upper_half(one)[:64], blur_upper_half(other)[:64])


def pages() -> dict[str, tuple[str, list[bytes]]]:
    """A report and a contact sheet, and what of the images must not be in them."""
    images = [noise(name) for name in range(3)]
    encoded = [encode_png(image) for image in images]
    answer = Answer("q.png", "low-resolution", encoded[0], [Match("a.png", "", 0.9, "", encoded[1])])
    return {
        "report": (render(small_report()), []),
        "sheet": (render_sheet("1 query", "note", [answer]), encoded[:2]),
    }


@pytest.mark.parametrize("name", ["report", "sheet"])
def test_every_image_of_a_page_is_blurred_and_no_original_is_left(name: str) -> None:
    page, encoded = pages()[name]
    blurred = blur_faces(page)
    before, after = images_of(page), images_of(blurred)
    assert len(after) == len(before) > 1
    for old, new in zip(before, after, strict=True):
        assert new.shape == old.shape
        assert detail(new[: new.shape[0] // 2 - 8]) < detail(old[: old.shape[0] // 2 - 8]) / 8  # JPEG rings
        assert detail(new[new.shape[0] // 2 + 8 :]) > detail(old[old.shape[0] // 2 + 8 :]) / 2
    links = set(re.findall(r"data:image/(?:png|jpeg)[^\"']+", page))
    assert not [link for link in links if link in blurred]
    for data in encoded:
        assert base64.b64encode(data).decode() not in blurred


@pytest.mark.parametrize("name", ["report", "sheet"])
def test_the_page_says_so_and_is_else_the_same(name: str) -> None:
    page, _ = pages()[name]
    blurred = blur_faces(page)
    note = re.search(r"\n<p>The upper half of each image is blurred[^<]*</p>", blurred)
    assert note is not None
    links = re.compile(r"data:image/(?:png|jpeg)[^\"']+")
    assert links.sub("", blurred.replace(note[0], "")) == links.sub("", page)


def test_a_png_stays_exact_below() -> None:
    image = smooth_image("exact", height=100, width=40)
    link = data_uri("image/png", encode_png(image))
    np.testing.assert_array_equal(
        decode(base64.b64decode(blur_faces(link).partition(",")[2]), "png")[50:], image[50:]
    )


def test_a_damaged_image_is_refused() -> None:
    damaged = encode_jpeg(noise("cut"), 85)[:-200]
    with pytest.raises(InputError, match="an image of the page is not a readable image"):
        blur_faces(data_uri("image/jpeg", damaged))
