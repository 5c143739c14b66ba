"""Several processes that share every batch, against one process that has it all."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import AUGMENT, banks, prepare, train_params
from torch.nn.modules.batchnorm import _BatchNorm

from dgrl.errors import InputError
from dgrl.random import named_generator
from dgrl.training.batches import Batches
from dgrl.training.distributed import ALONE, Ranks, launch, ranks
from dgrl.training.held_out import MEAN_AP
from dgrl.training.params import TrainParams
from dgrl.training.trainer import train
from dgrl.weights.checkpoint import load_checkpoint

# A small learning rate: without batch norms the loss would grow a million times, and so its rounding.
PARAMS = train_params(epochs=5, learning_rate=1e-4, clip_norm=10.0, ema_decay=0.9, held_out=0.1)
PARAMS = PARAMS.model_copy(update={"eval_every": 2, "keep": "best"})
MEASURED = [10.0, 30.0, 5.0]  # after epochs 2, 4 and 5


def run(checkpoint: Path, curve: Path, params: TrainParams = PARAMS) -> None:
    """Train with frozen batch norms, and keep the curve.

    In float64, since float32's rounding, which the order of a sum changes, grows from step to step.
    """
    torch.set_default_dtype(torch.float64)
    _BatchNorm.train = lambda self, mode=True: torch.nn.Module.train(self, False)  # type: ignore[method-assign]
    metrics = []

    def log(step: int, now: Mapping[str, float]) -> None:
        metrics.append([value for name, value in now.items() if name.startswith("loss")])

    values = iter(MEASURED)

    def measure(network: torch.nn.Module) -> dict[str, float]:
        return {MEAN_AP: next(values)}

    with ranks() as here:
        network, losses, batches = prepare(*banks(), params, ranks=here)
        history = train(
            network,
            losses,
            batches,
            params,
            checkpoint,
            log,
            here,
            measure=measure,
            log_every=1,
            checkpoint_every=10,
        )
        assert [each[MEAN_AP] for each in history if MEAN_AP in each] == MEASURED
    np.save(curve.with_name(f"{curve.name}{here.rank}.npy"), metrics)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    launch(run, 1, tmp_path / "one.pt", tmp_path / "one")
    launch(run, 2, tmp_path / "two.pt", tmp_path / "two")
    one = np.load(tmp_path / "one0.npy")
    assert one.shape == (15, 9)
    assert one.max() < 100
    for rank in (0, 1):
        np.testing.assert_allclose(np.load(tmp_path / f"two{rank}.npy"), one, rtol=0, atol=1e-8)
    whole, shared = (load_checkpoint(tmp_path / name) for name in ("one.pt", "two.pt"))
    assert whole is not None
    assert shared is not None
    for part in ("model", "average", "kept"):
        assert whole[part]
        for name, tensor in whole[part].items():
            torch.testing.assert_close(shared[part][name], tensor, rtol=0, atol=1e-8, msg=name)


def gathered(folder: Path) -> None:
    """The gradient of a sum over all pairs of ranks' rows, averaged as DDP does."""
    with ranks() as here:
        rows = torch.from_numpy(table()[here.part(6)]).requires_grad_()
        loss = (here.all_gather(rows) @ here.all_gather(rows).T).exp().sum()
        loss.backward()
        assert rows.grad is not None
        torch.save((loss.detach(), rows.grad / here.count), folder / f"{here.rank}.pt")


def table() -> np.ndarray:
    return named_generator("test_distributed").normal(size=(6, 3))


def test_gradients_reach_the_rows_of_every_rank(tmp_path: Path) -> None:
    launch(gathered, 2, tmp_path)
    rows = torch.from_numpy(table()).requires_grad_()
    loss = (rows @ rows.T).exp().sum()
    loss.backward()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for value, _ in found:
        torch.testing.assert_close(value, loss.detach())
    torch.testing.assert_close(torch.cat([gradient for _, gradient in found]), rows.grad)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_the_shares_are_the_batch(count: int) -> None:
    batch = torch.arange(12)
    assert torch.equal(torch.cat([batch[Ranks(rank, count).part(12)] for rank in range(count)]), batch)


def test_alone_nothing_is_sent() -> None:
    with ranks() as here:
        assert here == ALONE
        values = torch.arange(3.0)
        assert torch.equal(here.all_gather(values), values)
        assert torch.equal(here.mean(values), values)
        assert here.broadcast("hello") == "hello"
        here.barrier()


def test_persons_that_cannot_be_shared() -> None:
    with pytest.raises(InputError, match=r"persons_per_batch = 4 cannot be shared by 3 processes; make it"):
        Batches(*banks(), AUGMENT, PARAMS, torch.device("cpu"), Ranks(0, 3))


def complain() -> None:
    with ranks() as here:
        if here.rank:
            raise InputError("this is wrong; do that")
        here.barrier()


def test_a_mistake_that_one_process_finds_is_told() -> None:
    with pytest.raises(InputError, match="this is wrong; do that"):
        launch(complain, 2)


def sleep(folder: Path) -> None:
    with ranks() as here:
        (folder / str(here.rank)).write_text(str(os.getpid()))
        time.sleep(600)


def launch_sleep(folder: Path) -> None:
    launch(sleep, 2, folder)


def test_the_processes_end_with_the_one_that_launched_them(tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("spawn")
    launcher = context.Process(target=launch_sleep, args=(tmp_path,))
    launcher.start()
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    children = [int(path.read_text()) for path in tmp_path.iterdir()]
    assert launcher.pid is not None
    os.kill(launcher.pid, signal.SIGKILL)
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
