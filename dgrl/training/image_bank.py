"""Every picture of a table decoded once, at the network's size, as one uint8 tensor."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dgrl.images import Image
from dgrl.progress import track
from dgrl.tables import read_keys, read_rows


@dataclass(frozen=True)
class ImageBank:
    """Pictures and their keys, row by row.

    Attributes:
        images: [N, 3, H, W], uint8, RGB.
        keys: the table's columns without the pictures, N rows.
    """

    images: Tensor
    keys: pd.DataFrame

    def __len__(self) -> int:
        return len(self.keys)


def load_bank(table: Path, height: int, width: int) -> ImageBank:
    """Decode a table (``dgrl.tables``) and resize its pictures to ``height`` x ``width`` pixels."""
    keys = read_keys(table)
    images = np.empty((len(keys), height, width, 3), np.uint8)
    for index, row in enumerate(track(read_rows(table), f"decode {table.name}", len(keys), "image")):
        images[index] = resize(row.pixels(), height, width)
    return ImageBank(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), keys)


def resize(image: Image, height: int, width: int) -> Image:
    """Bicubic when enlarging, pixel area when shrinking (d)."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] > height or image.shape[1] > width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method).astype(np.uint8, copy=False)
