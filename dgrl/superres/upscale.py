"""Super-resolve whole tables of LR images: RCAN, bicubic interpolation or nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from dgrl.errors import InputError
from dgrl.files import atomic_folder
from dgrl.images import Image
from dgrl.parallel.processes import imap, usable_cores
from dgrl.progress import track
from dgrl.superres.params import SrParams
from dgrl.tables import ROWS_PER_SHARD, ImageRow, read_keys, read_rows, shards, write_shard

if TYPE_CHECKING:  # torch takes seconds to import, and bicubic does without
    from torch import nn

FACTORS = (2, 3, 4)  # of the paper
_ROWS_PER_JOB = 16  # on a CPU: few, so that no process waits long for another at the end


def upscale_table(
    lr: Path,
    output: Path,
    weights: Mapping[int, Path],
    params: SrParams,
    workers: int | None = None,
) -> None:
    """Write the SR image of every LR image: the same rows, order and keys.

    An image of factor r and size w x h becomes r w x r h. Images of factor 1 pass untouched, and so do
    all with the method "none". In memory are two shards, and for each process a few rows, or a shard where
    it has a GPU.

    Args:
        lr: an image table.
        output: the table to write.
        weights: ``rcan.safetensors`` by factor; read by the method "rcan" only.
        params: the method.
        workers: processes, on whose number the bytes do not depend; default one per GPU, or one per
            usable core.

    Raises:
        InputError: if weights for a factor are missing, or an image is unreadable.
        WorkerError: if a worker process was killed.
    """
    keys = read_keys(lr)
    networks = _networks(keys, weights) if params.method == "rcan" else {}
    paths = shards(lr)
    sizes = [pq.read_metadata(path).num_rows for path in paths]
    gpus = _gpus() if networks else []
    step = ROWS_PER_SHARD if gpus else _ROWS_PER_JOB
    jobs = sum(-(-size // step) for size in sizes)
    workers = max(1, min(workers or len(gpus) or usable_cores(), jobs))
    results = imap(
        partial(_upscale, params=params, networks=networks, threads=max(1, usable_cores() // workers)),
        (job for path in paths for job in _jobs(path, step)),
        workers=workers,
        description="super-resolution",
        gpus=gpus,
    )
    rows = iter(track(chain.from_iterable(results), "super-resolution", len(keys), "image"))
    with atomic_folder(output) as building:
        for path, size in zip(paths, sizes, strict=True):
            write_shard(building / path.name, list(islice(rows, size)))


def load_rcan(path: Path, factor: int | None = None) -> nn.Module:
    """The RCAN of a file that ``pretrain`` wrote, in evaluation mode on the CPU.

    It maps float32 RGB in [0, 1], [B, 3, h, w], to [B, 3, h * r, w * r].

    Args:
        path: the file.
        factor: r that is wanted; default any.

    Raises:
        InputError: if the file is missing, no such file, or of another factor.
    """
    from basicsr.archs.rcan_arch import RCAN

    from dgrl.weights.tensors import build_empty, load_into, read_tensors

    tensors, architecture = read_tensors(path, "architecture")

    def build() -> tuple[nn.Module, int]:
        if not all(isinstance(value, int | float) for value in architecture.values()):
            raise TypeError
        if int(architecture["num_group"]) * int(architecture["num_block"]) > len(tensors):
            raise ValueError  # before millions of modules are made
        return RCAN(**architecture), int(architecture["upscale"])

    network, trained = build_empty(build, path)
    load_into(network, tensors, path)
    if factor not in (None, trained):
        raise InputError(f"{path} is an RCAN x{trained}, not x{factor}; give the weights of each factor")
    return network.eval()


def load_rcans(folder: Path) -> dict[int, nn.Module]:
    """The RCANs of ``x2/rcan.safetensors`` and so on, by factor.

    Raises:
        InputError: if there is none, or a damaged one.
    """
    found = {factor: load_rcan(file, factor) for factor, file in _rcan_files(folder).items()}
    if not found:
        raise InputError(f"{folder} has no x2/rcan.safetensors, x3 or x4; give the rcan folder of a dataset")
    return found


def own_rcan(model: Path) -> Path | None:
    """The folder of the RCANs that restored a run's images: ``rcan``, beside the folder of its network.

    Args:
        model: the network's file, ``data/<dataset>/dgrl/model.safetensors``.

    Returns:
        None where there are none.
    """
    folder = model.absolute().parent.parent / "rcan"  # its files only say so where another method restores
    return folder if any(map(_is_trained, _rcan_files(folder).values())) else None


def rcan_file(folder: Path, factor: int) -> Path:
    """Where an RCAN lies in the rcan folder of a dataset, or of an exported network."""
    return folder / f"x{factor}/rcan.safetensors"


def _rcan_files(folder: Path) -> dict[int, Path]:
    files = {factor: rcan_file(folder, factor) for factor in (*FACTORS, 8)}
    return {factor: file for factor, file in files.items() if file.exists()}


def _is_trained(file: Path) -> bool:
    try:
        with safe_open(file, "np") as opened:
            return "architecture" in (opened.metadata() or {})
    except (SafetensorError, OSError):
        return True  # damaged: who loads it says so


def _networks(keys: pd.DataFrame, weights: Mapping[int, Path]) -> dict[int, nn.Module]:
    factors = sorted({int(factor) for factor in keys["factor"]} - {1})
    missing = [factor for factor in factors if factor not in weights]
    if missing:
        have = sorted(weights) or "none"
        raise InputError(f"no RCAN weights for factor {missing[0]} (have: {have}); add it to rcan.scales")
    return {factor: load_rcan(weights[factor], factor) for factor in factors}


def _gpus() -> list[str]:
    from dgrl.parallel.device import gpus

    return gpus()


def _jobs(shard: Path, step: int) -> Iterator[list[ImageRow]]:
    """The rows of a shard, ``step`` at a time."""
    rows = read_rows(shard)
    while job := list(islice(rows, step)):
        yield job


def _upscale(
    rows: list[ImageRow], params: SrParams, networks: Mapping[int, nn.Module], threads: int
) -> list[ImageRow]:
    """Decode, enlarge, encode: OpenCV in threads beside the network, outside of Python's lock."""
    with ThreadPoolExecutor(threads) as pool:
        images = list(pool.map(ImageRow.pixels, rows))
        results = {
            index: pool.submit(_row, rows[index], image)
            for index, image in _enlarge(rows, images, params, networks)
        }
        return [results[index].result() for index in range(len(rows))]


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
        if networks:
            larger = enlarge(same, networks[factor], params.batch)
        else:
            larger = (INTERPOLATIONS[params.method](image, factor) for image in same)
        yield from zip(indices, larger, strict=True)


def bicubic(image: Image, factor: int) -> Image:
    """OpenCV's bicubic interpolation: [h, w, 3] -> [r h, r w, 3]."""
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)


# The methods without a network
INTERPOLATIONS: Mapping[str, Callable[[Image, int], Image]] = {"bicubic": bicubic}


def enlarge(images: list[Image], network: nn.Module, batch: int = 1) -> Iterator[Image]:
    """Images of one size, enlarged by an RCAN."""
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


def _row(lr: ImageRow, image: Image) -> ImageRow:
    if image.shape == (lr.height, lr.width, 3):  # passed untouched
        return lr
    keys = {key: getattr(lr, key) for key in ("image_id", "person_id", "camera_id", "subset", "factor")}
    return ImageRow.from_pixels(image, lr.path, **keys)
