"""How much memory the train stage holds: of a large set in a mapped file, and over many epochs.

python benchmarks/memory.py map       (100,000 thumbnails of 64x32 pixels and their SR twins, storage: file)
python benchmarks/memory.py epochs    (10 epochs of a small set)

Anonymous memory is the process's own. File pages are those of libraries and of mapped files: they count as
resident while they are in memory, but the kernel may drop them at any time and read them again. The stage
runs in a process of its own, so that the making of its tables does not count.

The peer of the mapped file is storage: memory, the same training with its images in memory.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from measure import Memory, in_a_child, resident

from dgrl.model.params import ModelParams
from dgrl.random import named_generator
from dgrl.tables import ImageRow, write_table
from dgrl.training.params import TrainParams
from pipeline.params import Params, RuntimeParams, load_params
from pipeline.paths import Paths

PARAMS = Path(__file__).parents[1] / "params.yaml"
PATHS = Paths("synthetic")
HEIGHT, WIDTH = 64, 32  # pixels
IMAGES = 20  # of a person
TEXTURES = 256  # different images; the rows share them
PERSONS, PAIRS = 8, 2  # of a batch
STEPS = 20  # of training on the large set; of an epoch of the small one
FEW = STEPS * PERSONS * PAIRS // IMAGES  # persons of the small set
INTERVAL = 0.02  # seconds between two samples


def write_tables(persons: int) -> None:
    """Random textures, as HR and as SR training table."""
    rng = named_generator("memory")
    textures = [
        ImageRow.from_pixels(pixels, "", image_id="", person_id="", camera_id="a", subset="train", factor=1)
        for pixels in rng.integers(0, 256, (TEXTURES, HEIGHT, WIDTH, 3), np.uint8)
    ]
    for table, first in ((PATHS.mlr("train_hr"), 0), (PATHS.sr("train"), 1)):
        rows = (
            replace(
                textures[(number + first) % TEXTURES],
                image_id=f"{number:06d}",
                person_id=f"{number // IMAGES:05d}",
            )
            for number in range(persons * IMAGES)
        )
        write_table(table, rows)


def stage_params(**changes: object) -> Params:
    """A small network at the size of the thumbnails."""
    settings = {"persons_per_batch": PERSONS, "pairs_per_person": PAIRS, "storage": "file"} | changes
    how = {key: settings.pop(key) for key in RuntimeParams.model_fields if key in settings}
    model = ModelParams(backbone="resnet18", weights="none", height=HEIGHT, width=WIDTH, side_branches=False)
    train = TrainParams.parse(settings, "train")
    return load_params(PARAMS).model_copy(
        update={"model": model, "train": train, "runtime": RuntimeParams.parse(how, "runtime")}
    )


@contextmanager
def log_hook(hook: Callable[[int], object]) -> Iterator[None]:
    """Call ``hook`` with the step after each log of the train stage."""
    from dvclive.live import Live

    class HookedLive(Live):
        def make_summary(self, *args: Any, **options: Any) -> None:
            super().make_summary(*args, **options)
            hook(self.step)

    with patch("pipeline.train.Live", HookedLive):
        yield


# ---- A large set ----


@dataclass
class Peaks:
    """The most of each kind of memory, phase by phase, from a thread that samples it."""

    phase: str
    found: dict[str, Memory] = field(default_factory=dict)

    @contextmanager
    def watched(self) -> Iterator[None]:
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(INTERVAL):
                before = self.found.get(self.phase, Memory(0, 0, 0))
                self.found[self.phase] = Memory(*map(max, before, resident()))

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class EnoughError(Exception):
    """As many steps as are measured."""


def large_set(storage: str) -> tuple[dict[str, Memory], float]:
    """Peaks of a train stage that reads an epoch's batches, then trains for some steps; images/s read."""
    import torch

    from dgrl.image_bank import ImageBank
    from dgrl.training.batches import Batches
    from dgrl.training.sampler import PersonBatchSampler
    from pipeline.train import train

    speeds: list[float] = []

    def measured(hr: ImageBank, sr: ImageBank, *args: Any) -> Batches:
        epoch = PersonBatchSampler(np.arange(len(hr)) // IMAGES, PERSONS, PAIRS, 0).epoch(0)
        peaks.phase = "an epoch's images"
        started = time.perf_counter()
        for batch in epoch:
            for bank in (hr, sr):
                bank.take(torch.from_numpy(batch), torch.device("cpu"))
        speeds.append(2 * len(hr) / (time.perf_counter() - started))
        peaks.phase = "training"
        return Batches(hr, sr, *args)

    def stop(_step: int) -> None:
        raise EnoughError

    peaks = Peaks("decoding", {"imports": resident()})
    with (
        log_hook(stop),
        patch("pipeline.train.Batches", measured),
        peaks.watched(),
        suppress(EnoughError),
    ):
        train("synthetic", stage_params(log_every=STEPS, storage=storage))
    return peaks.found, speeds[0]


def report_large_set(images: int) -> None:
    pixels = 2 * images * 3 * HEIGHT * WIDTH / 1e6
    print(f"{images} images and their twins, {pixels:.0f} MB of pixels; most MB resident")
    for storage in ("file", "memory"):
        peaks, speed = in_a_child(large_set, storage)
        print(f"storage: {storage:14} anonymous     file    total")
        for phase, memory in peaks.items():
            print(f"{phase:23} {memory.anonymous:9.0f} {memory.file:8.0f} {memory.total:8.0f}")
        print(f"{speed:.0f} images/s are read", flush=True)


# ---- Many epochs ----


def many_epochs(count: int) -> dict[float, Memory]:
    """What the process holds after so many epochs, at each log of the train stage."""
    from pipeline.train import train

    found: dict[float, Memory] = {}
    params = stage_params(epochs=count, log_every=STEPS // 4, checkpoint_every=2 * STEPS)
    with log_hook(lambda step: found.setdefault(step / STEPS, resident())):
        train("synthetic", params)
    return found


def report_many_epochs(count: int) -> None:
    found = in_a_child(many_epochs, count)
    print("epoch  anonymous     file  MB resident")
    for epoch, memory in found.items():
        if epoch == int(epoch):
            print(f"{epoch:5.0f} {memory.anonymous:10.1f} {memory.file:8.1f}")
    later = np.array([(epoch, memory.anonymous) for epoch, memory in found.items() if epoch >= 2])
    slope = np.polyfit(later[:, 0], later[:, 1], 1)[0]
    print(f"anonymous memory from epoch 2 on: {slope:+.2f} MB an epoch")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["map", "epochs"])
    parser.add_argument("--images", type=int, default=100_000, help=f"a multiple of {IMAGES}")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        if args.what == "map":
            write_tables(args.images // IMAGES)
            report_large_set(args.images)
        else:
            write_tables(FEW)
            report_many_epochs(args.epochs)


if __name__ == "__main__":
    main()
