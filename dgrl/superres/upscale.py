"""Super-resolve whole tables of LR pictures: RCAN, bicubic interpolation or nothing."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pydantic import Field

from dgrl.config import Section
from dgrl.errors import InputError
from dgrl.files import atomic_folder
from dgrl.images import Image
from dgrl.progress import track
from dgrl.tables import SR_IMAGES, ImageRow, read_keys, read_rows, shards, write_shard

if TYPE_CHECKING:  # torch takes seconds to import, and bicubic does without
    from torch import nn

_EXACT = 100.0  # dB for equal pictures, so that a mean stays finite


class SrParams(Section):
    """How LR pictures are brought to HR size."""

    method: Literal["rcan", "bicubic", "none"] = "rcan"
    batch: int = Field(64, ge=1)  # pictures at once on a GPU; a CPU takes them one by one


def upscale_table(
    lr: Path, output: Path, weights: Mapping[int, Path], params: SrParams, hr: Path | None = None
) -> None:
    """Write the SR picture of every LR picture: the same rows, order and keys, one shard in memory at a time.

    A picture of factor r and size w x h becomes r w x r h. Pictures of factor 1 pass untouched, and so do
    all with the method "none".

    Args:
        lr: an image table.
        output: the table to write, with schema ``SR_IMAGES``.
        weights: ``rcan.safetensors`` by factor; read by the method "rcan" only.
        params: the method.
        hr: the table of HR twins, found by image_id. Where given, ``psnr`` is that of the picture, brought
            to its twin's size by bicubic interpolation if need be, in dB over RGB; else it is null.

    Raises:
        InputError: if weights for a factor, or a picture's twin, are missing.
    """
    keys = read_keys(lr)
    networks = _networks(keys, weights) if params.method == "rcan" else {}
    homes = None if hr is None else _homes(keys, lr, hr)
    with atomic_folder(output) as building:
        paths = shards(lr)
        for path in track(paths, "super-resolution", len(paths), "shard"):
            rows = list(read_rows(path))
            pictures = _upscale(rows, params, networks)
            twins = [None] * len(rows) if homes is None else _twins(rows, homes)
            results = [_row(*each) for each in zip(rows, pictures, twins, strict=True)]
            write_shard(building / path.name, results, SR_IMAGES)


def load_rcan(path: Path) -> nn.Module:
    """The RCAN of a file that ``pretrain`` wrote, in evaluation mode on the CPU.

    It maps float32 RGB in [0, 1], [B, 3, h, w], to [B, 3, h * r, w * r].

    Raises:
        InputError: if the file is missing or no such file.
    """
    return _load(path)[0]


def _load(path: Path) -> tuple[nn.Module, int]:
    """The network and its factor."""
    from basicsr.archs.rcan_arch import RCAN
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            architecture = json.loads(file.metadata()["architecture"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run the stage that trains it (pretrain_sr)") from None
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise InputError(f"{path} is no RCAN of this project; train it again (pretrain_sr)") from None
    network: nn.Module = RCAN(**architecture)
    network.load_state_dict(state)
    return network.eval(), architecture["upscale"]


def _networks(keys: pd.DataFrame, weights: Mapping[int, Path]) -> dict[int, nn.Module]:
    factors = sorted({int(factor) for factor in keys["factor"]} - {1})
    missing = [factor for factor in factors if factor not in weights]
    if missing:
        have = sorted(weights) or "none"
        raise InputError(f"no RCAN weights for factor {missing[0]} (have: {have}); add it to rcan.scales")
    return {factor: _load_factor(weights[factor], factor) for factor in factors}


def _load_factor(path: Path, factor: int) -> nn.Module:
    network, trained = _load(path)
    if trained != factor:
        raise InputError(f"{path} is an RCAN x{trained}, not x{factor}; give the weights of each factor")
    return network


def _upscale(rows: list[ImageRow], params: SrParams, networks: Mapping[int, nn.Module]) -> list[Image]:
    pictures = [row.pixels() for row in rows]
    if params.method == "none":
        return pictures
    groups: dict[tuple[int, tuple[int, ...]], list[int]] = defaultdict(list)
    for index, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
        if row.factor > 1:
            groups[row.factor, picture.shape].append(index)
    for (factor, _), indices in groups.items():
        same = [pictures[index] for index in indices]
        larger = _rcan(same, networks[factor], params.batch) if networks else _bicubic(same, factor)
        for index, picture in zip(indices, larger, strict=True):
            pictures[index] = picture
    return pictures


def _bicubic(pictures: list[Image], factor: int) -> Iterator[Image]:
    for picture in pictures:
        height, width = picture.shape[:2]
        yield _resize(picture, width * factor, height * factor)


def _rcan(pictures: list[Image], network: nn.Module, batch: int) -> Iterator[Image]:
    import torch

    from dgrl.device import default_device

    device = default_device()
    if device.type == "cpu":
        # A batch changes the order of the sums, so the rounding of one value in 10^5; and gains little here.
        batch = 1
    network = network.to(device).to(memory_format=torch.channels_last)
    for start in range(0, len(pictures), batch):
        stack = torch.from_numpy(np.stack(pictures[start : start + batch]))
        images = stack.to(device).permute(0, 3, 1, 2).float() / 255  # [B, 3, h, w], channels last
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, device.type == "cuda"):
            larger = network(images).float()
        rounded = larger.mul(255).round().clamp(0, 255).byte()
        yield from rounded.permute(0, 2, 3, 1).cpu().numpy()  # [B, H, W, 3]


def _row(lr: ImageRow, picture: Image, twin: Image | None) -> ImageRow:
    psnr = None if twin is None else _psnr(picture, twin)
    if picture.shape == (lr.height, lr.width, 3):  # passed untouched
        return replace(lr, psnr=psnr)
    keys = {key: getattr(lr, key) for key in ("image_id", "person_id", "camera_id", "subset", "factor")}
    return replace(ImageRow.from_pixels(picture, lr.path, **keys), psnr=psnr)


def _psnr(picture: Image, twin: Image) -> float:
    """Peak signal-to-noise ratio over RGB, dB."""
    if picture.shape != twin.shape:
        picture = _resize(picture, twin.shape[1], twin.shape[0])
    error = np.mean((picture.astype(np.float64) - twin) ** 2)
    return min(float(10 * np.log10(255**2 / error)), _EXACT) if error else _EXACT


def _resize(picture: Image, width: int, height: int) -> Image:
    resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
    return resized.astype(np.uint8, copy=False)


def _homes(keys: pd.DataFrame, lr: Path, hr: Path) -> dict[str, Path]:
    """The shard of ``hr`` that holds each image_id."""
    homes = {
        image_id: path
        for path in shards(hr)
        for image_id in pq.read_table(path, columns=["image_id"])["image_id"].to_pylist()
    }
    missing = [image_id for image_id in keys["image_id"] if image_id not in homes]
    if missing:
        raise InputError(
            f"{len(missing)} pictures of {lr} have no HR twin in {hr}, the first {missing[0]}; "
            "make both tables anew (dvc repro split)"
        )
    return homes


def _twins(rows: list[ImageRow], homes: Mapping[str, Path]) -> list[Image]:
    wanted = {row.image_id for row in rows}
    sources = sorted({homes[image_id] for image_id in wanted})
    twins = {
        twin.image_id: twin.pixels()
        for path in sources
        for twin in read_rows(path)
        if twin.image_id in wanted
    }
    return [twins[row.image_id] for row in rows]
