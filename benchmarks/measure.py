"""What the scripts share: seconds, resident memory, and a process of one's own."""

import multiprocessing
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Memory(NamedTuple):
    """Resident MB of a process; pages of mapped files may be dropped by the kernel at any time."""

    anonymous: float
    file: float
    total: float


def timed(function: Callable[[], R]) -> tuple[float, R]:
    """The seconds that the function takes, and what it returns."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def best(function: Callable[[], R], repeats: int = 3) -> tuple[float, R]:
    """The least seconds of several calls, and what the last one returns."""
    calls = [timed(function) for _ in range(repeats)]
    return min(seconds for seconds, _ in calls), calls[-1][1]


def resident() -> Memory:
    """Of this process, now; a file on a tmpfs is shared memory, and counts as a file."""
    status = Path("/proc/self/status").read_text()
    kib = {name: int(value) for name, value in re.findall(r"Rss(\w+):\s+(\d+) kB", status)}
    anonymous, file = kib["Anon"], kib["File"] + kib["Shmem"]
    return Memory(*(value * 1024 / 1e6 for value in (anonymous, file, anonymous + file)))


def peak() -> float:
    """The most resident MB of this process so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def in_a_child(function: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
    """Call a module's function in a fresh process, so that nothing else counts."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **options).result()
