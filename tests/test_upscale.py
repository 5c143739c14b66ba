"""Super-resolved tables against brute force."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from small_images import image_row, smooth_image

from dgrl.errors import InputError
from dgrl.images import pixel_sha256
from dgrl.superres.params import SrParams
from dgrl.superres.upscale import load_rcan, upscale_table
from dgrl.tables import IMAGES, read_rows, shards, write_shard, write_table

ARCHITECTURE = {"num_feat": 8, "num_group": 1, "num_block": 1, "squeeze_factor": 4}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Untrained networks."""
    import torch
    from basicsr.archs.rcan_arch import RCAN
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for factor in (2, 3, 4):
        torch.manual_seed(factor)
        architecture = {"num_in_ch": 3, "num_out_ch": 3, "upscale": factor, **ARCHITECTURE}
        paths[factor] = folder / f"x{factor}.safetensors"
        state = RCAN(**architecture).state_dict()
        save_file(state, paths[factor], {"architecture": json.dumps(architecture)})
    return paths


@pytest.fixture(scope="module")
def lr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LR table with every factor in turn, of images of two sizes."""
    folder = tmp_path_factory.mktemp("lr")
    rows = []
    for person in range(24):
        image = smooth_image(person, width=48, height=97 if person % 2 else 128)
        factor = 1 + person % 4
        height, width = (side // factor for side in image.shape[:2])
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
        rows.append(image_row(small, person, "a", factor))
    write_table(folder / "lr", rows)
    return folder / "lr"


KEYS = ("image_id", "person_id", "camera_id", "subset", "factor")


@pytest.mark.parametrize("method", ["rcan", "bicubic", "none"])
def test_rows_keep_their_order_and_keys(
    lr: Path, weights: dict[int, Path], tmp_path: Path, method: Any
) -> None:
    upscale_table(lr, tmp_path / "sr", weights, SrParams(method=method))
    assert pq.read_schema(shards(tmp_path / "sr")[0]).equals(IMAGES, check_metadata=True)
    for before, after in zip(read_rows(lr), read_rows(tmp_path / "sr"), strict=True):
        assert all(getattr(before, key) == getattr(after, key) for key in KEYS)
        image = after.pixels()
        times = 1 if method == "none" else before.factor
        assert (after.width, after.height) == (before.width * times, before.height * times)
        assert image.shape == (after.height, after.width, 3)
        assert after.pixel_sha256 == pixel_sha256(image)
        if times == 1:
            assert after.data == before.data
        if method == "bicubic" and times > 1:
            expected = cv2.resize(before.pixels(), (after.width, after.height), interpolation=cv2.INTER_CUBIC)
            assert (image == expected).all()


def test_bytes_do_not_depend_on_the_batch(lr: Path, weights: dict[int, Path], tmp_path: Path) -> None:
    digests = set()
    for batch in (1, 2, 64):
        upscale_table(lr, tmp_path / "sr", weights, SrParams(batch=batch))
        digests.add(hashlib.sha256(shards(tmp_path / "sr")[0].read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("method", ["rcan", "bicubic", "none"])
def test_bytes_do_not_depend_on_the_number_of_processes(
    lr: Path, weights: dict[int, Path], tmp_path: Path, method: Any
) -> None:
    rows = list(read_rows(lr))
    for name, part in (("0", rows[:3]), ("1", []), ("2", rows[3:])):  # the last one makes two jobs
        write_shard(tmp_path / f"lr/part-{name}.parquet", part)
    tables = []
    for workers in (1, 2, 3):
        upscale_table(tmp_path / "lr", tmp_path / "sr", weights, SrParams(method=method), workers)
        tables.append({path.name: path.read_bytes() for path in shards(tmp_path / "sr")})
    assert list(tables[0]) == ["part-0.parquet", "part-1.parquet", "part-2.parquet"]
    assert tables[0] == tables[1] == tables[2]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unreadable_image_is_named_in_one_line(
    lr: Path, weights: dict[int, Path], tmp_path: Path, workers: int
) -> None:
    damaged = [replace(row, data=row.data[:40]) if row.image_id == "0021_a" else row for row in read_rows(lr)]
    write_table(tmp_path / "lr", damaged)
    with pytest.raises(InputError, match=r"^0021_a.png \(0021_a\) is not a readable image; .*$") as caught:
        upscale_table(tmp_path / "lr", tmp_path / "sr", weights, SrParams(), workers)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sr").exists()


def test_each_factor_goes_through_its_own_network(lr: Path, weights: dict[int, Path], tmp_path: Path) -> None:
    import torch

    upscale_table(lr, tmp_path / "sr", weights, SrParams())
    for before, after in zip(read_rows(lr), read_rows(tmp_path / "sr"), strict=True):
        if before.factor == 1:
            continue
        network = load_rcan(weights[before.factor])
        images = torch.from_numpy(before.pixels().transpose(2, 0, 1)[None] / np.float32(255))
        with torch.inference_mode():
            expected = network(images)[0].clamp(0, 1).numpy().transpose(1, 2, 0) * 255
        assert np.abs(after.pixels() - expected).max() <= 0.501


def test_missing_weights_are_named(lr: Path, weights: dict[int, Path], tmp_path: Path) -> None:
    some = {2: weights[2], 4: weights[4]}
    with pytest.raises(InputError, match=r"no RCAN weights for factor 3 \(have: \[2, 4\]\)"):
        upscale_table(lr, tmp_path / "sr", some, SrParams())


def test_weights_of_another_factor_are_named(lr: Path, weights: dict[int, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x4.safetensors is an RCAN x4, not x3"):
        upscale_table(lr, tmp_path / "sr", {**weights, 3: weights[4]}, SrParams())


def test_a_file_without_an_rcan_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rcan.safetensors does not exist; write it first"):
        load_rcan(tmp_path / "rcan.safetensors")
    (tmp_path / "rcan.safetensors").write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError, match="is damaged or no safetensors file"):
        load_rcan(tmp_path / "rcan.safetensors")
