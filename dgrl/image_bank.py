"""Every image of a table decoded once, at the network's size, as one uint8 tensor.

It lies where it fits: on the GPU, in memory, or in a file that is mapped into memory, so that a set larger
than memory trains too.
"""

import logging
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from dgrl.files import atomic_file
from dgrl.images import Image
from dgrl.parallel.device import free_memory, to_device
from dgrl.parallel.processes import usable_cores
from dgrl.progress import track
from dgrl.tables import ImageRow, read_keys, read_rows, shards

Storage = Literal["device", "memory", "file"]  # on the GPU, in memory, in a file mapped into it

SHARE = 0.5  # of the free memory that images may take; the network needs some as well

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageBank:
    """Images and their keys, row by row.

    Attributes:
        images: [N, 3, H, W], uint8, RGB.
        keys: the table's columns without the images, N rows.
        mapped: the map of the file that ``images`` lies in, if it lies in one.
    """

    images: Tensor
    keys: pd.DataFrame
    mapped: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Tensor, device: torch.device) -> Tensor:
        """Some images on a device, without waiting for their transfer.

        Args:
            rows: [B], int64, on the CPU.
            device: where to.

        Returns:
            [B, 3, H, W], uint8.
        """
        if self.images.is_cuda or device.type == "cpu":
            taken = self.images[to_device(rows, self.images.device)]
        else:
            staged = torch.empty((len(rows), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=True)
            torch.index_select(self.images, 0, rows, out=staged)
            taken = staged.to(device, non_blocking=True)
        if self.mapped is not None:  # else the process would come to hold the whole file
            self.mapped.madvise(mmap.MADV_DONTNEED)
        return taken


def choose_storage(wanted: Literal["auto", Storage], needed: int, device: torch.device) -> Storage:
    """Where to keep images: as wanted, or the fastest place that they take no more than half of.

    Args:
        wanted: ``auto`` to choose.
        needed: bytes.
        device: that of the network.
    """
    storage: Storage = "file"
    if wanted != "auto":
        storage = wanted
    elif device.type == "cuda" and needed <= SHARE * free_memory(device):
        storage = "device"
    elif needed <= SHARE * free_memory(torch.device("cpu")):
        storage = "memory"
    places = {"device": f"on {device}", "memory": "in memory", "file": "in a file mapped into memory"}
    logger.info("%.2f GB of images %s", needed / 1e9, places[storage])
    return storage


def load_bank(
    table: Path,
    height: int,
    width: int,
    *,
    device: torch.device | None = None,
    file: Path | None = None,
) -> ImageBank:
    """Decode a table (``dgrl.tables``) and resize its images to ``height`` x ``width`` pixels.

    Args:
        table: the folder.
        height: pixels.
        width: pixels.
        device: where the images lie; default in memory.
        file: a file to decode into, and to map into memory; if it exists it is taken as it is.
    """
    keys = read_keys(table)
    shape = (len(keys), 3, height, width)
    if file is None:
        decoded = np.empty(shape, np.uint8)
        _decode(table, decoded)
    else:
        if not file.exists():
            with atomic_file(file) as building:
                mapped = np.lib.format.open_memmap(building, "w+", np.uint8, shape)
                if hasattr(os, "posix_fallocate"):  # else a full disk ends the process with a bus error
                    with building.open("r+b") as reserved:
                        os.posix_fallocate(reserved.fileno(), 0, building.stat().st_size)
                _decode(table, mapped)
                mapped.flush()
        decoded = np.load(file, mmap_mode="c")
    images = torch.from_numpy(decoded)
    if device is not None:
        return ImageBank(images.to(device), keys)
    return ImageBank(images, keys, mapped=cast(mmap.mmap, decoded.base) if file else None)


def resize(image: Image, height: int, width: int) -> Image:
    """Bicubic when enlarging, pixel area when shrinking (d)."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] > height or image.shape[1] > width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method).astype(np.uint8, copy=False)


def _decode(table: Path, images: npt.NDArray[np.uint8]) -> None:
    """Fill ``images`` [N, 3, H, W], a shard at a time; OpenCV decodes outside of Python's lock."""
    height, width = images.shape[2:]

    def decoded(row: ImageRow) -> Image:
        return resize(row.pixels(), height, width)

    def decode_all() -> Iterator[Image]:
        with ThreadPoolExecutor(usable_cores()) as pool:
            for shard in shards(table):
                yield from pool.map(decoded, read_rows(shard))

    for index, image in enumerate(track(decode_all(), f"decode {table.name}", len(images), "image")):
        images[index] = image.transpose(2, 0, 1)
