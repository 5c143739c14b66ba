"""How fast the split stage builds an MLR set, with one process and with several, beside a plain loop.

python benchmarks/split.py ARCHIVE    (Market-1501's zip file or folder; its training part is used)

"pool" is the building of the tables alone; "stage" is all of it, with the plan before and the digests after,
which one process makes. The plain loop does what the public scripts do: cv2.imread, cv2.resize (area),
cv2.imwrite (JPEG), one file an image, no keys, no digests. All read from and write to the same disk.
"""

import argparse
import resource
import tempfile
import zipfile
from contextlib import chdir
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
from measure import timed

from dgrl.datasets import market1501
from dgrl.mlr.protocol import MlrParams
from dgrl.parallel.processes import usable_cores
from dgrl.parallel.shards import map_shards
from dgrl.random import named_generator
from dgrl.tables import write_table
from pipeline.params import Params, load_params
from pipeline.split import split

PRESET = Path(__file__).parents[1] / "params.yaml"


def split_timed(params: Params, workers: int) -> tuple[float, float]:
    """Seconds of the stage and of its pool."""
    pool = []

    def timed_map(*args: Any, **options: Any) -> list[Any]:
        seconds, results = timed(lambda: map_shards(*args, **options))
        pool.append(seconds)
        return results

    with patch("pipeline.split.map_shards", timed_map):
        seconds, _ = timed(lambda: split("market1501", params, workers))
        return seconds, pool[0]


def plain_loop(archive: Path, folder: Path) -> float:
    """Seconds for LR images of all training images, written as JPEG files."""
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if "bounding_box_train/" in name and name.endswith(".jpg")]
        file.extractall(folder / "in", names)
    (folder / "out").mkdir()

    def loop() -> None:
        for name in names:
            image: Any = cv2.imread(str(folder / "in" / name))
            factor = int(named_generator("loop", name).integers(2, 5))
            size = image.shape[1] // factor, image.shape[0] // factor
            low = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(folder / "out" / Path(name).name), low)

    return timed(loop)[0]


def size_of(folder: Path) -> float:
    """MB of all files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path)
    archive = parser.parse_args().archive.resolve()
    params = load_params(PRESET)
    mlr = MlrParams(lr_camera={"market1501": "c1"}, evaluate_on="val")
    params = params.model_copy(update={"mlr": mlr})
    cores = usable_cores()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        images = Path("data/market1501/images")
        count = write_table(images, market1501.images(archive, "train"))
        seconds = {}
        for workers in (1, cores):
            split("market1501", params, workers)  # once for the disk's cache and the imports
            best = min(split_timed(params, workers) for _ in range(3))
            seconds[f"stage, {workers} processes"], seconds[f"pool, {workers} processes"] = best
        seconds["plain loop"] = plain_loop(archive, Path(folder))
        print(f"{count} images, {cores} cores, best of 3")
        for name, value in seconds.items():
            print(f"{name:22} {value:6.2f} s {count / value:8.0f} images/s")
        stage, pool, stages, pools, _ = seconds.values()
        print(f"ratio of {cores} processes to one: pool {pool / pools:.2f}, stage {stage / stages:.2f}")
        tables = Path("data/market1501/mlr")
        print(f"bytes: images {size_of(images):.1f} MB, HR and LR tables {size_of(tables):.1f} MB,", end=" ")
        print(f"of these LR {size_of(tables / 'train_lr') + size_of(tables / 'query'):.1f} MB;", end=" ")
        print(f"plain loop's LR files {size_of(Path('out')):.1f} MB")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"peak memory of a worker process: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
