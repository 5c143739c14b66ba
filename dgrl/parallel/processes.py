"""Other processes: one function over many jobs, and processes that do not outlive their parent."""

import ctypes
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, TypeVar

from dgrl.errors import WorkerError

T = TypeVar("T")
R = TypeVar("R")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_function: Callable[[Any], Any]  # of a worker process


def imap(
    function: Callable[[T], R],
    jobs: Iterable[T],
    *,
    workers: int,
    description: str,
    gpus: Sequence[str] = (),
) -> Iterator[R]:
    """Call ``function`` on job after job, several at once, and yield the results in the order of the jobs.

    Each process computes with one thread of torch, this one too: sums, and so bytes, depend on the number of
    threads, but not on the number of processes.

    Args:
        function: reaches each process once, inherited (Linux without a GPU) or pickled.
        jobs: read as workers become free, two for each in advance; they and the results are pickled.
        workers: processes. 1 runs in this process.
        description: what an error begins with.
        gpus: as CUDA_VISIBLE_DEVICES names them; each process sees one, in turn.

    Raises:
        WorkerError: if a worker process was killed.
        Exception: the first error of ``function`` or ``jobs``, as it is; jobs not yet begun are dropped.
    """
    if workers <= 1:
        yield from (_with_one_thread(function, job) for job in jobs)
        return
    pool = _pool(function, workers, gpus)
    waiting: deque[Future[R]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(_work, job))
            if len(waiting) == 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        reason = "a worker process was killed, most often for want of memory; use fewer workers"
        raise WorkerError(f"{description}: {reason}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(function: Callable[[T], R], workers: int, gpus: Sequence[str]) -> ProcessPoolExecutor:
    # Fork starts at once and shares memory, where spawn imports everything again. CUDA does not survive it,
    # nor do torch's threads; but a worker uses only one.
    forks = sys.platform == "linux" and not gpus
    context = multiprocessing.get_context("fork" if forks else "spawn")
    turns: SimpleQueue[str] = context.SimpleQueue()
    for gpu in itertools.islice(itertools.cycle(gpus), workers):
        turns.put(gpu)
    # Pickled here, because multiprocessing would open a file of shared memory for every tensor.
    carried = function if forks else pickle.dumps(function)
    return ProcessPoolExecutor(workers, context, _begin, (os.getpid(), turns if gpus else None, carried))


def _begin(parent: int, turns: "SimpleQueue[str] | None", carried: Callable[[Any], Any] | bytes) -> None:
    global _function
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends the others
    if turns is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = turns.get()  # read when torch first asks for a GPU
    _function = pickle.loads(carried) if isinstance(carried, bytes) else carried  # noqa: S301 (the parent's)


def _work(job: Any) -> Any:
    return _with_one_thread(_function, job)


def _with_one_thread(function: Callable[[T], R], job: T) -> R:
    torch = sys.modules.get("torch")
    if torch is None:
        return function(job)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(job)
    finally:
        torch.set_num_threads(threads)


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The cores that this process may use: fewer than the machine's under taskset, Slurm or in a container.

    Args:
        quota: where Linux says how many microseconds of CPU time a container has in how many; ``max``: all.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        time, period = map(int, quota.read_text().split())
    except (OSError, ValueError):  # no container, or one without a quota
        return cores
    return max(1, min(cores, time // period))


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
