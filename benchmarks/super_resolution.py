"""How fast the SR images of a table are made, with one process and with several, beside basicsr's own loop.

python benchmarks/super_resolution.py    (--groups 10 --blocks 20 --features 64 is RCAN's own size, for a GPU)

The images are the synthetic generator's, down-sampled as the split stage does; the networks are untrained,
one per scale, and the same for both. "dgrl" is all of ``upscale_table``: processes start, the networks load,
Parquet is read and written, images are decoded, encoded as PNG and hashed. The peer is
``SRModel.nondist_validation`` on a folder of PNG files, one by one as basicsr's test.py does, without
metrics: its loop alone, model and list of files ready.
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.archs.rcan_arch import RCAN
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from basicsr.utils import get_root_logger
from measure import timed
from safetensors.torch import save_file

from dgrl.datasets import synthetic
from dgrl.datasets.synthetic import SyntheticParams
from dgrl.mlr.degrade import downsample
from dgrl.parallel.device import default_device, default_workers
from dgrl.random import named_seed
from dgrl.superres.params import SrParams
from dgrl.superres.upscale import load_rcan, upscale_table
from dgrl.tables import ImageRow, read_rows, shards, write_table

REPEATS = 3


def write_images(folder: Path, images: int, scales: list[int]) -> None:
    """The LR images, as a table and as PNG files by scale."""
    params = SyntheticParams(persons=-(-images // 8), cameras=4, images_per_camera=2, width=64, height=128)
    rows = []
    for hr, scale in zip(list(synthetic.images(params))[:images], cycle(scales), strict=False):
        pixels = downsample(hr.pixels(), scale)
        keys = {key: getattr(hr, key) for key in ("image_id", "person_id", "camera_id", "subset")}
        rows.append(ImageRow.from_pixels(pixels, f"{hr.image_id}.png", factor=scale, **keys))
        file = folder / f"x{scale}/{hr.image_id}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(rows[-1].data)
    write_table(folder / "lr", rows)


def write_weights(folder: Path, scale: int, size: dict[str, int]) -> Path:
    """Those of an untrained network."""
    torch.manual_seed(named_seed("benchmark", scale))
    architecture = {"num_in_ch": 3, "num_out_ch": 3, "upscale": scale, **size}
    path = folder / f"x{scale}.safetensors"
    save_file(RCAN(**architecture).state_dict(), path, {"architecture": json.dumps(architecture)})
    return path


def basicsr_loop(folder: Path, scale: int, weights: Path, size: dict[str, int]) -> Callable[[bool], None]:
    """basicsr's validation of one scale, ready to run with saving on or off."""
    dataset: dict[str, Any] = {
        "name": f"sr{scale}",
        "phase": "test",
        "type": "SingleImageDataset",
        "dataroot_lq": str(folder / f"x{scale}"),
        "io_backend": {"type": "disk"},
    }
    options = {
        "name": "rcan",
        "model_type": "SRModel",
        "is_train": False,
        "dist": False,
        "num_gpu": int(default_device().type == "cuda"),
        "network_g": {"type": "RCAN", "num_in_ch": 3, "num_out_ch": 3, "upscale": scale, **size},
        "path": {"visualization": str(folder)},
        "val": {"suffix": None},
    }
    loader = build_dataloader(build_dataset(dataset), dataset, num_gpu=options["num_gpu"])
    model = build_model(options)
    model.net_g.load_state_dict(load_rcan(weights).state_dict())
    return lambda save: model.nondist_validation(loader, options["name"], None, save)


def differences(table: Path, folder: Path) -> str:
    """How the pixels of the table differ from basicsr's files."""
    errors = []
    for row in read_rows(table):
        peer: Any = cv2.imread(str(folder / f"sr{row.factor}/{row.image_id}_rcan.png"))
        errors.append(np.abs(row.pixels().astype(int) - peer[:, :, ::-1]).ravel())
    all_errors = np.concatenate(errors)
    return f"{np.count_nonzero(all_errors)} of {all_errors.size} values, by {all_errors.max()} at most"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=960)
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=4)
    arguments = parser.parse_args()
    size = {"num_feat": arguments.features, "num_group": arguments.groups, "num_block": arguments.blocks}
    get_root_logger(log_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, arguments.images, arguments.scales)
        weights = {scale: write_weights(folder, scale, size) for scale in arguments.scales}
        loops = [basicsr_loop(folder, scale, weights[scale], size) for scale in arguments.scales]

        def dgrl(workers: int) -> None:
            upscale_table(folder / "lr", folder / f"dgrl{workers}", weights, SrParams(), workers=workers)

        def basicsr(save: bool) -> None:
            for loop in loops:
                loop(save)

        counts = sorted({1, default_workers()})
        runs: dict[str, Callable[[], object]] = {
            **{f"dgrl, processes: {workers}": partial(dgrl, workers) for workers in counts},
            "basicsr's loop, PNG files saved": lambda: basicsr(True),
            "basicsr's loop, nothing saved": lambda: basicsr(False),
        }
        times = {what: min(several) for what, several in measured(runs).items()}
        print(f"{arguments.images} images on {default_device()}, best of {REPEATS}")
        for what, value in times.items():
            print(f"{what:32} {value:7.2f} s {arguments.images / value:8.0f} images/s")
        *_, ours, saving, bare = times.values()
        print(f"ratio of basicsr's time to dgrl's: {saving / ours:.2f} saved, {bare / ours:.2f} not saved")
        tables = [shards(folder / f"dgrl{workers}") for workers in counts]
        same = len({tuple(path.read_bytes() for path in paths) for paths in tables}) == 1
        print(f"bytes of dgrl with {counts} processes: {'the same' if same else 'different'}")
        print(f"dgrl and basicsr differ in {differences(folder / 'dgrl1', folder)}")


def measured(runs: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each run, in turn, so that a busy moment hits all."""
    times: dict[str, list[float]] = {what: [] for what in runs}
    for _ in range(REPEATS):
        for what, run in runs.items():
            times[what].append(timed(run)[0])
    return times


if __name__ == "__main__":
    main()
