"""Super-resolve whole tables of LR images: RCAN, bicubic interpolation or nothing."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from dgrl.errors import InputError
from dgrl.files import atomic_folder
from dgrl.images import Image
from dgrl.parallel.processes import imap, usable_cores
from dgrl.progress import track
from dgrl.superres.params import SrParams
from dgrl.tables import ROWS_PER_SHARD, SR_IMAGES, ImageRow, read_keys, read_rows, shards, write_shard

if TYPE_CHECKING:  # torch takes seconds to import, and bicubic does without
    from torch import nn

Pair = tuple[ImageRow, ImageRow | None]  # an LR image and, where it is known, its HR twin

_EXACT = 100.0  # dB for equal images, so that a mean stays finite
_ROWS_PER_JOB = 16  # on a CPU: few, so that no process waits long for another at the end


def upscale_table(
    lr: Path,
    output: Path,
    weights: Mapping[int, Path],
    params: SrParams,
    hr: Path | None = None,
    workers: int | None = None,
) -> None:
    """Write the SR image of every LR image: the same rows, order and keys.

    An image of factor r and size w x h becomes r w x r h. Images of factor 1 pass untouched, and so do
    all with the method "none". In memory are two shards, and for each process a few rows, or a shard where
    it has a GPU.

    Args:
        lr: an image table.
        output: the table to write, with schema ``SR_IMAGES``.
        weights: ``rcan.safetensors`` by factor; read by the method "rcan" only.
        params: the method.
        hr: the table of HR twins, found by image_id. Where given, ``psnr`` is that of the image, brought
            to its twin's size by bicubic interpolation if need be, in dB over RGB; else it is null.
        workers: processes, on whose number the bytes do not depend; default one per GPU, or one per
            usable core.

    Raises:
        InputError: if weights for a factor, or an image's twin, are missing, or an image is unreadable.
        WorkerError: if a worker process was killed.
    """
    keys = read_keys(lr)
    networks = _networks(keys, weights) if params.method == "rcan" else {}
    homes = None if hr is None else _homes(keys, lr, hr)
    paths = shards(lr)
    sizes = [pq.read_metadata(path).num_rows for path in paths]
    gpus = _gpus() if networks else []
    step = ROWS_PER_SHARD if gpus else _ROWS_PER_JOB
    jobs = sum(-(-size // step) for size in sizes)
    workers = max(1, min(workers or len(gpus) or usable_cores(), jobs))
    results = imap(
        partial(_upscale, params=params, networks=networks, threads=max(1, usable_cores() // workers)),
        (job for path in paths for job in _jobs(path, homes, step)),
        workers=workers,
        description="super-resolution",
        gpus=gpus,
    )
    rows = iter(track(chain.from_iterable(results), "super-resolution", len(keys), "image"))
    with atomic_folder(output) as building:
        for path, size in zip(paths, sizes, strict=True):
            write_shard(building / path.name, list(islice(rows, size)), SR_IMAGES)


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


def _gpus() -> list[str]:
    from dgrl.parallel.device import gpus

    return gpus()


def _jobs(shard: Path, homes: Mapping[str, Path] | None, step: int) -> Iterator[list[Pair]]:
    """The images of a shard with their twins, still encoded, ``step`` at a time."""
    rows = list(read_rows(shard))
    twins = [None] * len(rows) if homes is None else _twins(rows, homes)
    pairs = list(zip(rows, twins, strict=True))
    for start in range(0, len(pairs), step):
        yield pairs[start : start + step]


def _upscale(
    job: list[Pair], params: SrParams, networks: Mapping[int, nn.Module], threads: int
) -> list[ImageRow]:
    """Decode, enlarge, compare, encode: OpenCV in threads beside the network, outside of Python's lock."""
    with ThreadPoolExecutor(threads) as pool:
        rows = [lr for lr, _ in job]
        images = list(pool.map(ImageRow.pixels, rows))
        results = {
            index: pool.submit(_row, *job[index], image)
            for index, image in _enlarge(rows, images, params, networks)
        }
        return [results[index].result() for index in range(len(job))]


def _enlarge(
    rows: list[ImageRow], images: list[Image], params: SrParams, networks: Mapping[int, nn.Module]
) -> Iterator[tuple[int, Image]]:
    """Index and SR image of each LR image, those of one factor and size together."""
    groups: dict[tuple[int, tuple[int, ...]], list[int]] = defaultdict(list)
    for index, (row, image) in enumerate(zip(rows, images, strict=True)):
        groups[row.factor, image.shape].append(index)
    for (factor, _), indices in groups.items():
        same = [images[index] for index in indices]
        if factor == 1 or params.method == "none":
            yield from zip(indices, same, strict=True)
            continue
        larger = _rcan(same, networks[factor], params.batch) if networks else _bicubic(same, factor)
        yield from zip(indices, larger, strict=True)


def _bicubic(images: list[Image], factor: int) -> Iterator[Image]:
    for image in images:
        height, width = image.shape[:2]
        yield _resize(image, width * factor, height * factor)


def _rcan(images: list[Image], network: nn.Module, batch: int) -> Iterator[Image]:
    import torch

    from dgrl.parallel.device import default_device

    device = default_device()
    if device.type == "cpu":
        # In a batch sums have another order, so that one value in 10^5 is rounded otherwise: the bytes of an
        # image would depend on how many others have its size.
        batch = 1
    network = network.to(device).to(memory_format=torch.channels_last)
    for start in range(0, len(images), batch):
        stack = torch.from_numpy(np.stack(images[start : start + batch]))
        batched = stack.to(device).permute(0, 3, 1, 2).float() / 255  # [B, 3, h, w], channels last
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, device.type == "cuda"):
            larger = network(batched).float()
        rounded = larger.mul(255).round().clamp(0, 255).byte()
        yield from rounded.permute(0, 2, 3, 1).cpu().numpy()  # [B, H, W, 3]


def _row(lr: ImageRow, hr: ImageRow | None, image: Image) -> ImageRow:
    psnr = None if hr is None else _psnr(image, hr.pixels())
    if image.shape == (lr.height, lr.width, 3):  # passed untouched
        return replace(lr, psnr=psnr)
    keys = {key: getattr(lr, key) for key in ("image_id", "person_id", "camera_id", "subset", "factor")}
    return replace(ImageRow.from_pixels(image, lr.path, **keys), psnr=psnr)


def _psnr(image: Image, twin: Image) -> float:
    """Peak signal-to-noise ratio over RGB, dB."""
    if image.shape != twin.shape:
        image = _resize(image, twin.shape[1], twin.shape[0])
    error = np.mean((image.astype(np.float64) - twin) ** 2)
    return min(float(10 * np.log10(255**2 / error)), _EXACT) if error else _EXACT


def _resize(image: Image, width: int, height: int) -> Image:
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
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
            f"{len(missing)} images of {lr} have no HR twin in {hr}, the first {missing[0]}; "
            "make both tables anew (dvc repro split)"
        )
    return homes


def _twins(rows: list[ImageRow], homes: Mapping[str, Path]) -> list[ImageRow]:
    wanted = {row.image_id for row in rows}
    sources = sorted({homes[image_id] for image_id in wanted})
    twins = {row.image_id: row for path in sources for row in read_rows(path) if row.image_id in wanted}
    return [twins[row.image_id] for row in rows]
