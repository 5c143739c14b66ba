"""Training on several GPUs, or CPUs: one process each, which share every global batch.

Each rank takes the pairs of some of the batch's persons, runs the network on them, and DDP averages the
gradients. Triplets are mined over the whole batch, so the loss, and where batch norms do not learn the
weights too, are those of one process.
"""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException, spawn
from torch.nn.parallel import DistributedDataParallel

from dgrl.errors import InputError, WorkerError, explain
from dgrl.parallel.processes import die_with_parent, usable_cores

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes of a run.

    Attributes:
        rank: this one's number, from 0.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    def part(self, pairs: int) -> slice:
        """This rank's part of a batch."""
        size = pairs // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def all_gather(self, part: Tensor) -> Tensor:
        """The parts [B, ...] of all ranks, one after the other: [ranks x B, ...], with gradients."""
        if self.count == 1:
            return part
        gathered: Tensor = _Gather.apply(part, self)
        return gathered

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks, without gradients."""
        if self.count > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values / self.count

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.count > 1:
            dist.barrier()

    def broadcast(self, value: T | None) -> T:
        """Rank 0's value, in all ranks."""
        values = [value]
        if self.count > 1:
            dist.broadcast_object_list(values)
        return cast("T", values[0])

    def wrap(self, model: nn.Module, sync_batch_norm: bool) -> nn.Module:
        """The network with averaged gradients.

        Args:
            model: whose parameters, the same in all ranks, are kept.
            sync_batch_norm: whether batch norms take the whole batch's statistics. If not, each rank takes
                those of its share, and the running ones are rank 0's.

        Raises:
            InputError: if batch norms cannot be synchronised, on a CPU.
        """
        if self.count == 1:
            return model
        if sync_batch_norm:
            if not torch.cuda.is_available():
                raise InputError("train.sync_batch_norm = true needs GPUs; set it to false")
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(model)


ALONE = Ranks()


class _Gather(torch.autograd.Function):
    """Every rank's rows; their gradient is the sum of what the ranks' losses send back."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        parts = [torch.empty_like(part) for _ in range(ranks.count)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.ranks.part(len(gradient))], None


@contextmanager
def ranks() -> Iterator[Ranks]:
    """This process among those that torchrun, or ``launch``, started; alone if none did.

    All but rank 0 log warnings and errors only.

    Raises:
        InputError: if there is no GPU for this process, on a machine that has GPUs.
    """
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield ALONE
        return
    local, locals_ = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    gpus = torch.cuda.device_count()
    if gpus:
        if local >= gpus:
            raise InputError(
                f"{locals_} processes need a GPU each, and this machine has {gpus}; lower train.processes"
            )
        torch.cuda.set_device(local)
        dist.init_process_group("nccl", device_id=torch.device("cuda", local))
    else:
        torch.set_num_threads(max(1, usable_cores() // locals_))
        dist.init_process_group("gloo")
    here = Ranks(dist.get_rank(), count)
    if here.rank:
        logging.disable(logging.INFO)
    yield here
    dist.destroy_process_group()  # not after an error, whose line must reach ``launch`` before others notice


def launch(function: Callable[..., None], processes: int, *arguments: Any) -> None:
    """Run ``function(*arguments)`` in several processes of this machine, which ``ranks`` finds.

    They end with this one, however it ends, and with each other.

    Raises:
        InputError: what ``explain`` says of a process's error.
        WorkerError: if a process was killed.
    """
    errors = get_context("spawn").SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        counts = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        shared = {**counts, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        run = partial(function, *arguments)
        spawn(_run_rank, (shared, os.getpid(), errors, run), processes)  # type: ignore[no-untyped-call]
    except ProcessException as error:  # of the first that ended, which need not be the one with the error
        if not errors.empty():
            raise InputError(errors.get()) from None
        if isinstance(error, ProcessExitedException) and error.signal_name:
            reason = f"was killed ({error.signal_name}), most often for want of memory"
            raise WorkerError(f"a rank {reason}; lower train.persons_per_batch or train.processes") from None
        raise


def _run_rank(
    rank: int, shared: Mapping[str, object], parent: int, errors: "SimpleQueue[str]", run: Callable[[], None]
) -> None:
    die_with_parent(parent)
    own = {"RANK": rank, "LOCAL_RANK": rank, **shared}
    os.environ |= {name: str(value) for name, value in own.items()}
    try:
        run()
    except Exception as error:
        if (line := explain(error)) is None:
            raise
        errors.put(line)
        sys.exit(1)
