"""How fast the network trains, beside the loop that public code has: same network, losses, batches, tables.

python benchmarks/training.py    (ResNet-50 at 256x128, 8 persons x 2 pairs; --help for smaller ones)

"ours" is dgrl.training.trainer.train as the stage calls it, its images in memory. "naive" is float32 in
contiguous NCHW with SGD as it comes, a DataLoader that decodes with PIL and augments with torchvision one
image at a time, and loss.item() in each step. "torchreid" and "fastreid", with checkouts of
KaiyangZhou/deep-person-reid and JDAI-CV/fast-reid in PYTHONPATH, are their loops over their datasets and
transforms, with our batches, network and losses. All take turns, each in a process of its own; each speed is
that of the best report after a turn's first four, in which the memory of a process still grows. The FLOPs are
those of the matrix products and convolutions of one step, the peaks are those of a large matrix product and
of a wide 3x3 convolution, in bfloat16 and in float32.
"""

import argparse
import collections.abc
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import count, islice, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import PIL.Image
import torch
from measure import best, in_a_child, timed
from torch import Tensor, nn
from torch.profiler import profile
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from dgrl.datasets.synthetic import SyntheticParams, images
from dgrl.image_bank import ImageBank, load_bank, resize
from dgrl.mlr.degrade import downsample
from dgrl.model.inputs import MEAN, STD
from dgrl.model.losses import loss_terms
from dgrl.model.network import DGRL
from dgrl.model.params import LossParams, ModelParams
from dgrl.parallel.device import default_device, keep_freed_memory
from dgrl.random import named_generator, named_seed
from dgrl.tables import ImageRow, read_keys, read_rows, write_table
from dgrl.training.batches import Batches
from dgrl.training.distributed import ALONE
from dgrl.training.params import AugmentParams, TrainParams
from dgrl.training.sampler import Indices, PersonBatchSampler
from dgrl.training.trainer import train
from dgrl.weights.initial import build

WARMUP, REPORTS = 4, 3  # of each turn: reports that do not count, and that do
PAPER_EPOCHS, MARKET_PAIRS = 70, 12_936  # IV-C, IV-A
LOSS, AUGMENT = LossParams(), AugmentParams()

# fast-reid imports it from there, as Python before 3.10 had it; here, so that a loader's workers have it too
collections.Mapping = collections.abc.Mapping  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Case:
    """What is trained, where, on which tables."""

    model: ModelParams
    train: TrainParams
    log_every: int  # optimizer steps
    device: torch.device
    hr: Path
    sr: Path

    @property
    def pairs(self) -> int:
        """In a batch."""
        return self.train.persons_per_batch * self.train.pairs_per_person

    def labels(self) -> Indices:
        """The class of each pair."""
        return np.unique(read_keys(self.hr).person_id, return_inverse=True)[1].astype(np.int64)

    def sampler(self) -> PersonBatchSampler:
        params = self.train
        return PersonBatchSampler(
            self.labels(), params.persons_per_batch, params.pairs_per_person, params.seed
        )

    def banks(self) -> tuple[ImageBank, ImageBank]:
        """On the GPU, or in memory."""
        size = self.model.height, self.model.width
        device = self.device if self.device.type == "cuda" else None
        return load_bank(self.hr, *size, device=device), load_bank(self.sr, *size, device=device)

    def wait(self) -> None:
        """For what the device still computes."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def write_tables(case: Case) -> int:
    """Write four images of each of four times as many persons as a batch takes, and their SR twins."""
    rows = list(images(SyntheticParams(persons=4 * case.train.persons_per_batch, images_per_camera=1)))
    write_table(case.hr, rows)
    return write_table(case.sr, map(twin, rows))


def twin(row: ImageRow) -> ImageRow:
    """The image after a down-sampling by 2, 3 or 4 and bicubic interpolation."""
    factor = int(named_generator("twin", row.image_id).integers(2, 5))
    low = downsample(row.pixels(), factor)
    return ImageRow.from_pixels(
        resize(low, row.height, row.width),
        row.path,
        image_id=row.image_id,
        person_id=row.person_id,
        camera_id=row.camera_id,
        subset=row.subset,
        factor=factor,
    )


# ---- Ours ----


class EnoughError(Exception):
    """As many steps as are measured."""


def ours(case: Case) -> list[float]:
    """Images/s of each report."""
    keep_freed_memory()
    speeds: list[float] = []

    def log(_step: int, metrics: object) -> None:
        assert isinstance(metrics, dict)
        speeds.append(metrics["images_per_second"])
        if len(speeds) == WARMUP + REPORTS:
            raise EnoughError

    with (
        tempfile.TemporaryDirectory() as folder,
        patch("dgrl.training.trainer.default_device", lambda: case.device),
        suppress(EnoughError),
    ):
        batches = Batches(*case.banks(), AUGMENT, case.train, case.device, ALONE)
        train(
            build(case.model, batches.persons, case.train.seed)[0],
            partial(loss_terms, params=LOSS),
            batches,
            case.train,
            Path(folder) / "checkpoint.pt",
            log,
            log_every=case.log_every,
            checkpoint_every=10**6,
        )
    return speeds[WARMUP:]


def feeding(case: Case, banks: tuple[ImageBank, ImageBank], steps: int = 20) -> float:
    """Seconds that a step waits for its batch: drawn, fetched and augmented."""
    batches = Batches(*banks, AUGMENT, case.train, case.device, ALONE)
    batches(0)
    case.wait()

    def feed() -> None:
        for step in range(1, 1 + steps):
            batches(step)
        case.wait()

    return timed(feed)[0] / steps


# ---- Naive ----


class Pairs(Dataset[tuple[Tensor, Tensor, int]]):
    """Pairs decoded and augmented one image at a time; the tables' bytes are in memory."""

    def __init__(self, case: Case) -> None:
        self.rows = list(zip(read_rows(case.hr), read_rows(case.sr), case.labels().tolist(), strict=True))
        size = case.model.height, case.model.width
        self.transform = transforms.Compose(
            [
                transforms.Resize(size),
                transforms.RandomHorizontalFlip(AUGMENT.flip),
                transforms.Pad(AUGMENT.pad),
                transforms.RandomCrop(size),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
                transforms.RandomErasing(AUGMENT.erase),
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        hr, sr, label = self.rows[index]
        return self._image(hr), self._image(sr), label

    def _image(self, row: ImageRow) -> Tensor:
        image: Tensor = self.transform(PIL.Image.open(io.BytesIO(row.data)).convert("RGB"))
        return image


def naive(case: Case, workers: int) -> list[float]:
    """The loop that public code has."""
    model, optimizer = plain_network(case)
    ends = []
    for hr, sr, persons in loader(case, Pairs(case), workers):
        output = model(hr.to(case.device), sr.to(case.device))
        loss = total(loss_terms(output, persons.to(case.device), LOSS))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()
        ends.append(time.perf_counter())
    return speeds_between(ends, case)


def plain_network(case: Case) -> tuple[DGRL, torch.optim.SGD]:
    """In float32 and contiguous NCHW, and SGD as it comes."""
    torch.manual_seed(named_seed("naive"))
    model = DGRL(case.model, len(case.sampler().pairs_of)).to(case.device).train()
    params = case.train
    return model, torch.optim.SGD(
        model.parameters(), params.learning_rate, params.momentum, weight_decay=params.weight_decay
    )


def loader(
    case: Case,
    pairs: Dataset[Any],
    workers: int,
    make: Callable[..., DataLoader[Any]] = DataLoader,
    **options: Any,
) -> DataLoader[Any]:
    """The batches of our sampler: one, and those of the reports."""
    drawn = (batch.tolist() for epoch in count() for batch in case.sampler().epoch(epoch))
    return make(
        dataset=pairs,
        batch_sampler=list(islice(drawn, 1 + (WARMUP + REPORTS) * case.log_every)),
        num_workers=workers,
        pin_memory=case.device.type == "cuda",
        **options,
    )


def speeds_between(ends: list[float], case: Case) -> list[float]:
    """Images/s of blocks of as many steps as a report of ours has, from the ends of the steps."""
    seconds = np.diff(ends[:: case.log_every])[WARMUP:]
    return [2 * case.pairs * case.log_every / each for each in seconds]


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


# ---- torchreid and fast-reid ----


class Twins(Dataset[dict[str, Any]]):
    """Pairs of the images of a peer's two datasets, whose items are dictionaries."""

    def __init__(self, hr: Any, sr: Any, image: str, person: str) -> None:
        self.hr, self.sr, self.image, self.person = hr, sr, image, person

    def __len__(self) -> int:
        return len(self.hr)

    def __getitem__(self, index: int) -> dict[str, Any]:
        hr, sr = self.hr[index], self.sr[index]
        return {"hr": hr[self.image], "sr": sr[self.image], "person": hr[self.person]}


def image_files(case: Case, folder: Path) -> Iterator[list[tuple[str, int, int]]]:
    """Of HR and of SR: file, person and camera of each image, as the peers want them."""
    for table in (case.hr, case.sr):
        items = []
        for row, label in zip(read_rows(table), case.labels().tolist(), strict=True):
            file = folder / f"{table.name} {row.image_id}"
            file.write_bytes(row.data)
            items.append((str(file), label, 0))
        yield items


def torchreid(case: Case, workers: int) -> list[float]:
    """Its Engine.train with its datasets, transforms and meters."""
    data, module = import_module("torchreid.data"), import_module("torchreid.engine")
    chosen = ["random_flip", "random_crop", "random_erase"]
    transform, _ = data.transforms.build_transforms(case.model.height, case.model.width, chosen)
    model, optimizer = plain_network(case)
    ends = []

    def forward_backward(batch: dict[str, Tensor]) -> dict[str, float]:
        """As its engines have it, for pairs and with our losses."""
        output = model(batch["hr"].to(case.device), batch["sr"].to(case.device))
        terms = loss_terms(output, batch["person"].to(case.device), LOSS)
        summary = {name: term.item() for name, term in terms.items()}
        optimizer.zero_grad()
        total(terms).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        ends.append(time.perf_counter())
        return summary

    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        hr, sr = (
            data.ImageDataset(items, items, items, transform=transform, verbose=False)
            for items in image_files(case, Path(folder))
        )
        batches = loader(case, Twins(hr, sr, "img", "pid"), workers)
        engine = module.Engine(SimpleNamespace(train_loader=batches, test_loader=None))
        engine.register_model("model", model, optimizer)
        engine.model, engine.epoch, engine.max_epoch = model, 0, 1
        engine.forward_backward = forward_backward
        engine.train()
    return speeds_between(ends, case)


def fastreid(case: Case, workers: int) -> list[float]:
    """Its SimpleTrainer with its datasets, transforms, collator and metrics; on a GPU also its loader."""
    data, engine = import_module("fastreid.data"), import_module("fastreid.engine")
    config = import_module("fastreid.config").get_cfg()
    config.INPUT.SIZE_TRAIN = [case.model.height, case.model.width]
    for chosen in (config.INPUT.FLIP, config.INPUT.PADDING, config.INPUT.REA):
        chosen.ENABLED = True
    transform = data.transforms.build_transforms(config)
    make = partial(data.build.DataLoaderX, 0) if case.device.type == "cuda" else DataLoader
    model, optimizer = plain_network(case)
    clock, ends = engine.HookBase(), []
    clock.after_step = lambda: ends.append(time.perf_counter())
    with tempfile.TemporaryDirectory() as folder:
        hr, sr = (data.CommDataset(items, transform) for items in image_files(case, Path(folder)))
        twins = Twins(hr, sr, "images", "targets")
        batches = loader(case, twins, workers, make, collate_fn=data.build.fast_batch_collator)
        trainer = engine.SimpleTrainer(LossesOf(model, case.device), batches, optimizer, None)
        trainer.register_hooks([clock])
        trainer.train(0, 1, len(batches))
    return speeds_between(ends, case)


class LossesOf(nn.Module):
    """A network as fast-reid's are: from images of 0 to 255 to loss terms."""

    def __init__(self, network: DGRL, device: torch.device) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = (
            255 * torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD)
        )

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        device = self.mean.device
        hr, sr = ((batch[name].to(device) - self.mean) / self.std for name in ("hr", "sr"))
        return loss_terms(self.network(hr, sr), batch["person"].to(device), LOSS)


PEERS = {"naive": naive, "torchreid": torchreid, "fastreid": fastreid}

# ---- The hardware's limit ----


def step_flops(case: Case, persons: int) -> int:
    """Of the matrix products and convolutions of one step, counted without computing them.

    The backward pass has twice those of the forward pass; torch's counter is wrong about that of a depthwise
    convolution, which it takes for a full one.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        images = torch.empty(case.pairs, 3, case.model.height, case.model.width)
        DGRL(case.model, persons)(images, images)
    return 3 * int(counter.get_total_flops())


def peaks(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of a large matrix product and of a wide 3x3 convolution."""
    size, batch = (8192, 512) if device.type == "cuda" else (4096, 32)
    square = torch.randn(size, size, device=device, dtype=dtype)
    maps = torch.randn(batch, 512, 16, 8, device=device, dtype=dtype)
    maps = maps.contiguous(memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(512, 512, 3, padding=1, bias=False, device=device, dtype=dtype)
    conv = conv.to(memory_format=torch.channels_last)
    with torch.no_grad():
        return {
            "matrix product": 2 * size**3 / finished(lambda: square @ square),
            "3x3 convolution": 2 * maps.numel() * 9 * 512 / finished(lambda: conv(maps)),
        }


def finished(function: Callable[[], Tensor]) -> float:
    """The least seconds until the result can be read."""
    return best(lambda: function().flatten()[0].item(), repeats=11)[0]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--height", type=int, default=256, help="pixels")
    parser.add_argument("--width", type=int, default=128, help="pixels")
    parser.add_argument("--persons", type=int, default=8, help="in a batch")
    parser.add_argument("--pairs", type=int, default=2, help="of a person")
    parser.add_argument("--compile", default="none", help="none, default or cuda_graphs")
    parser.add_argument("--steps", type=int, help="of a report; default 1 on a CPU, 20 on a GPU")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each loop")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 2], help="of the naive loop's DataLoader"
    )
    parser.add_argument(
        "--peers", nargs="+", choices=PEERS, default=["naive"], help="checkouts must be importable"
    )
    parser.add_argument("--device", type=torch.device, default=default_device())
    parser.add_argument("--profile", type=Path, help="write the time of our operators to this file, and end")
    return parser.parse_args()


def case_of(args: argparse.Namespace, folder: Path) -> Case:
    values = {"backbone": args.backbone, "weights": "none", "height": args.height, "width": args.width}
    model = ModelParams.parse(values, "model")
    steps = args.steps or (20 if args.device.type == "cuda" else 1)
    values = {"persons_per_batch": args.persons, "pairs_per_person": args.pairs, "compile": args.compile}
    values |= {"epochs": 10**6}
    params = TrainParams.parse(values, "train")
    return Case(model, params, steps, args.device, folder / "hr", folder / "sr")


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        case = case_of(args, Path(folder))
        rows = write_tables(case)
        seconds, banks = timed(case.banks)
        print(f"decoding, once: {2 * rows / seconds:.0f} images/s")
        if args.profile:
            args.profile.write_text(operators(case))
            return
        loops = {"ours": partial(ours, case)}
        for name, workers in product(args.peers, args.workers):
            loops[f"{name}, {workers} workers"] = partial(PEERS[name], case, workers)
        speeds: dict[str, list[float]] = {name: [] for name in loops}
        for turn, (name, loop) in product(range(args.rounds), loops.items()):
            speeds[name] += in_a_child(loop)
            shown = " ".join(f"{speed:.2f}" for speed in speeds[name][-REPORTS:])
            print(f"turn {turn + 1}, {name}: {shown} images/s", flush=True)
        print_report(case, {name: max(each) for name, each in speeds.items()}, feeding(case, banks))


def operators(case: Case) -> str:
    """The table of those that take the most time."""
    with profile() as profiler:
        ours(case)
    key = "self_device_time_total" if case.device.type == "cuda" else "self_cpu_time_total"
    return str(profiler.key_averages().table(sort_by=key, row_limit=40)) + "\n"


def print_report(case: Case, speeds: dict[str, float], feeding_seconds: float) -> None:
    model, images_per_step = case.model, 2 * case.pairs
    step = images_per_step / speeds["ours"]  # seconds
    flops = step_flops(case, len(case.sampler().pairs_of))
    print(f"{model.backbone} {model.height}x{model.width}, {images_per_step} images a step, {case.device}")
    for name, speed in speeds.items():
        print(f"{name:20} {speed:8.2f} images/s {images_per_step / speed:8.3f} s a step")
    for peer in dict.fromkeys(name.partition(",")[0] for name in speeds if name != "ours"):
        fastest = max(speed for name, speed in speeds.items() if name.startswith(peer))
        print(f"ours / {peer}: {speeds['ours'] / fastest:.2f}")
    minutes = PAPER_EPOCHS * 2 * MARKET_PAIRS / speeds["ours"] / 60
    print(f"{PAPER_EPOCHS} epochs of MLR-Market-1501's {MARKET_PAIRS} pairs would take {minutes:.0f} minutes")
    print(f"batches, images, augmentation: {feeding_seconds:.4f} s, {feeding_seconds / step:.2%} of our step")
    print(f"a step has {flops / 1e12:.2f} TFLOP, so ours does {flops / step / 1e9:.0f} GFLOP/s:")
    for dtype in (torch.bfloat16, torch.float32):
        for name, peak in peaks(case.device, dtype).items():
            print(f"{flops / step / peak:.0%} of a {name} in {dtype}, {peak / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
