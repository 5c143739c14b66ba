"""Draw docs/mlr-synthetic.png: drawn pedestrians of the synthetic set, and their LR images enlarged.

python docs/samples.py
"""

from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from dgrl.datasets.synthetic import SyntheticParams, images
from dgrl.images import encode_png
from dgrl.mlr.degrade import downsample

FACTORS = (1, 2, 3, 4)
PERSONS, MARGIN = 8, 6  # images, pixels


def main() -> None:
    rows = list(islice(images(SyntheticParams()), 0, 8 * PERSONS, 8))
    lines = []
    for factor in FACTORS:
        tiles = []
        for row in rows:
            pixels = row.pixels()
            size = pixels.shape[1], pixels.shape[0]
            low = pixels if factor == 1 else downsample(pixels, factor)
            shown = cv2.resize(low, size, interpolation=cv2.INTER_NEAREST)
            tiles.append(np.pad(shown, ((MARGIN, 0), (MARGIN, 0), (0, 0)), constant_values=255))
        lines.append(np.hstack(tiles))
    sheet = np.pad(np.vstack(lines), ((0, MARGIN), (0, MARGIN), (0, 0)), constant_values=255)
    Path(__file__).with_name("mlr-synthetic.png").write_bytes(encode_png(sheet.astype(np.uint8)))


if __name__ == "__main__":
    main()
