"""Other processes: one function over many shards, and processes that do not outlive their parent."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Literal, TypeVar

from dgrl.progress import track

T = TypeVar("T")
R = TypeVar("R")

Backend = Literal["processes", "ray"]
DEFAULT_BACKEND: Backend = "processes"

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def map_shards(
    function: Callable[[T], R],
    shards: Sequence[T],
    *,
    workers: int | None = None,
    description: str,
    backend: Backend = DEFAULT_BACKEND,
) -> list[R]:
    """Call ``function`` on every shard, several at once.

    Args:
        function: a module's function or a ``functools.partial`` of one: it is pickled.
        shards: the arguments, one per call; they and the results are pickled too.
        workers: processes; default the cores that this process may use. 1 runs in this process.
        description: what the progress bar says.
        backend: ``processes`` of this machine, or tasks on a ``ray`` cluster (``dgrl.cluster.map_on_ray``);
            the results are the same.

    Returns:
        The results, in the order of ``shards``.

    Raises:
        InputError: if Ray is wanted and not installed, or does not answer.
        RuntimeError: if a worker process was killed.
        Exception: the first error of ``function``, as it is; shards not yet begun are dropped.
    """
    if backend == "ray":
        from dgrl.cluster import map_on_ray

        return map_on_ray(function, shards, workers=workers, description=description)
    workers = min(usable_cores() if workers is None else workers, len(shards))
    if workers <= 1:
        return [function(shard) for shard in track(shards, description, len(shards), "shard")]
    # Fork starts at once, where spawn imports everything again; but torch's threads do not survive it.
    method = "fork" if sys.platform == "linux" and "torch" not in sys.modules else "spawn"
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(method), die_with_parent, (os.getpid(),))
    try:
        futures = [pool.submit(function, shard) for shard in shards]
        for done in track(as_completed(futures), description, len(futures), "shard"):
            done.result()
    except BrokenProcessPool:
        reason = "a worker process was killed, most often for want of memory; use fewer workers"
        raise RuntimeError(f"{description}: {reason}") from None
    finally:
        pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


def usable_cores() -> int:
    """The cores that this process may run on: fewer than the machine's under taskset, Slurm or Docker."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def die_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent ends, however it ends; elsewhere do nothing.

    Args:
        parent: the parent's process id. If the parent is already gone, this process ends at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
