"""The multi-low-resolution images: exact area averages, rows, digests and what split.json tells."""

import json
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlr_sets import PARAMS, REAL, crowd, images, roles_of, steady

from dgrl.errors import InputError
from dgrl.images import decode, pixel_sha256
from dgrl.mlr.degrade import Entry, downsample, make_row
from dgrl.mlr.protocol import TABLES, describe, plan_split, table_digest
from dgrl.tables import KEYS, ImageRow

Pixels = npt.NDArray[np.uint8]
DIGESTED = ["image_id", "person_id", "camera_id", "factor", "pixel_sha256"]


# Downsampling


def area_weights(size: int, count: int) -> npt.NDArray[np.float64]:
    """[count, size]: the share of each of ``size`` pixels in each of ``count`` equal, wider pixels."""
    edges = np.arange(count + 1) * size / count
    left, right = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)
    overlap = np.minimum(pixel + 1, right) - np.maximum(pixel, left)
    return np.clip(overlap, 0, None) * count / size


def area_average(image: Pixels, height: int, width: int) -> npt.NDArray[np.float64]:
    rows, columns = area_weights(image.shape[0], height), area_weights(image.shape[1], width)
    return np.einsum("yh,xw,hwc->yxc", rows, columns, image.astype(np.float64))


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_the_reference_average_keeps_the_mean_and_agrees_with_block_means() -> None:
    image = noise(12, 8)
    blocks = image.reshape(6, 2, 4, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(area_average(image, 6, 4), blocks)
    np.testing.assert_allclose(area_average(image, 5, 3).mean(), image.mean())


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(128, 48), (128, 64), (127, 47), (97, 61), (8, 4), (5, 5)])
def test_downsampling_is_the_area_average(height: int, width: int, factor: int) -> None:
    image = noise(height, width)
    low = downsample(image, factor)
    assert low.dtype == np.uint8
    assert low.shape == (height // factor, width // factor, 3)
    assert np.abs(low - area_average(image, height // factor, width // factor)).max() <= 1


@steady
@given(st.integers(2, 40), st.integers(2, 40), st.integers(2, 4), st.integers(0, 99))
def test_downsampling_is_the_area_average_at_any_size(
    height: int, width: int, factor: int, seed: int
) -> None:
    image = noise(height, width, seed)
    if min(height, width) < factor:
        with pytest.raises(
            InputError, match=f"^an image of {width}x{height} pixels is too small for factor {factor}$"
        ):
            downsample(image, factor)
        return
    low = downsample(image, factor)
    assert np.abs(low - area_average(image, height // factor, width // factor)).max() <= 1


def test_viper_by_three_is_42_by_16() -> None:
    assert downsample(noise(128, 48), 3).shape == (42, 16, 3)


# Rows, digests and the description


def row(height: int = 13, width: int = 9) -> ImageRow:
    names: Any = {"image_id": "0001_c1_0", "person_id": "0001", "camera_id": "c1", "subset": "all"}
    return ImageRow.from_pixels(noise(height, width), "0001_c1_0.png", **names, factor=1)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_training_image_gives_itself_and_its_twin(factor: int) -> None:
    name = row().image_id
    high, low = (make_row(row(), Entry(*of)) for of in (("train_hr", name, 1), ("train_lr", name, factor)))
    assert high == replace(row(), subset="train")
    assert (low.image_id, low.person_id, low.camera_id) == (high.image_id, high.person_id, high.camera_id)
    assert (low.subset, low.factor, low.width, low.height) == ("train", factor, 9 // factor, 13 // factor)
    assert low.path == f"0001_c1_0_x{factor}.png"
    np.testing.assert_array_equal(decode(low.data, "low"), downsample(noise(13, 9), factor))
    assert low.pixel_sha256 == pixel_sha256(downsample(noise(13, 9), factor))


def test_a_query_image_gives_the_same_lr_image_as_a_training_image() -> None:
    query, low = (make_row(row(), Entry(table, row().image_id, 2)) for table in ("query", "train_lr"))
    assert query == replace(low, subset="query")


@pytest.mark.parametrize("table", ["gallery", "query"])
def test_factor_one_leaves_an_image_untouched(table: Literal["gallery", "query"]) -> None:
    assert make_row(row(), Entry(table, "other", 1)) == replace(row(), image_id="other", subset=table)


def test_a_distractor_stays_one() -> None:
    nobody = replace(row(), subset="distractor")
    assert make_row(nobody, Entry("gallery", nobody.image_id, 1)) == nobody


def test_an_image_too_small_is_named() -> None:
    with pytest.raises(
        InputError, match=r"^image 0001_c1_0: an image of 3x13 pixels is too small for factor 4"
    ):
        make_row(row(width=3), Entry("query", "0001_c1_0", 4))


def table(count: int = 4) -> pd.DataFrame:
    values = [(f"{i}", f"p{i}", f"c{i % 2}", "train", 2 + i % 3, 9, 13, f"{i:064x}") for i in range(count)]
    return pd.DataFrame(values, columns=KEYS)


def test_the_digest_ignores_the_order_of_rows_and_columns() -> None:
    expected = table_digest(table())
    assert table_digest(table()[::-1]) == expected
    assert table_digest(table()[KEYS[::-1]]) == expected
    assert table_digest(table().assign(note=1.0)) == expected


@pytest.mark.parametrize("column", DIGESTED)
def test_the_digest_tells_every_column(column: str) -> None:
    changed = table()
    changed.loc[2, column] = 9 if column == "factor" else "other"
    assert table_digest(changed) != table_digest(table())


def test_the_digest_tells_exchanged_and_missing_and_repeated_rows() -> None:
    exchanged = table()
    exchanged.loc[[0, 1], "pixel_sha256"] = exchanged.loc[[1, 0], "pixel_sha256"].to_numpy()
    repeated = pd.concat([table(), table()[:1]])
    digests = {table_digest(keys) for keys in (table(), exchanged, table()[:3], repeated)}
    assert len(digests) == 4


def test_the_description_is_json_that_tells_how_the_set_was_made() -> None:
    keys = images(crowd(6))
    split = plan_split(keys, "set", PARAMS)
    parts = {name: table(4) for name in TABLES}
    told = json.loads(json.dumps(describe(split, parts, "set", PARAMS)))
    assert told["dataset"] == "set"
    assert told["options"] == {
        "seed": 0, "trial": 0, "factors": [2, 3, 4], "lr_camera": "c1",
        "train_factor_per": "image", "query_factor_per": "image",
        "real_lr": ["caviar"], "training_pairs": "twin", "queries": "lr_camera", "evaluate_on": "test",
        "val_fraction": 0.2, "twins": "one", "recipe": "dgrl", "kernel": None, "jpeg_quality": None,
    }  # fmt: skip
    assert (told["train_persons"], told["test_persons"]) == (split.train_persons, split.test_persons)
    low = {image_id: role for image_id, role in roles_of(split).items() if role.subset != "gallery"}
    assert told["factors"] == {image_id: role.factor for image_id, role in low.items()}
    assert told["counts"]["query"] == {"images": 4, "persons": 4, "factors": {"2": 2, "3": 1, "4": 1}}
    assert told["digests"] == {name: table_digest(table(4)) for name in TABLES}


def test_the_description_of_a_real_set_tells_that_its_pairs_are_of_persons() -> None:
    told = describe(
        plan_split(images(crowd(6)), "set", REAL), {name: table(1) for name in TABLES}, "set", REAL
    )
    assert told["options"]["training_pairs"] == "person"
