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
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path

import torch
from measure import best, in_a_child, timed
from torch import Tensor
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode
from training_case import AUGMENT, LOSS, REPORTS, WARMUP, Case, write_tables
from training_peers import PEERS

from dgrl.image_bank import ImageBank
from dgrl.model.losses import loss_terms
from dgrl.model.network import DGRL
from dgrl.model.params import ModelParams
from dgrl.parallel.device import default_device, keep_freed_memory
from dgrl.training.batches import Batches
from dgrl.training.distributed import ALONE
from dgrl.training.params import TrainParams
from dgrl.training.trainer import train
from dgrl.weights.initial import build

PAPER_EPOCHS, MARKET_PAIRS = 70, 12_936  # IV-C, IV-A


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

    with tempfile.TemporaryDirectory() as folder, suppress(EnoughError):
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
    values |= {"epochs": 10**6, "learning_rate": 1e-5}  # too low for the loss to diverge
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
