"""One function over many shards as Ray Core tasks: on a running Ray cluster, else on this machine.

Ray is the extra ``dgrl[ray]`` and is imported only here, when it is asked for.
"""

import contextlib
import itertools
import os
import pickle
import platform
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from dgrl.errors import InputError, WorkerError
from dgrl.extras import package
from dgrl.parallel.processes import usable_cores
from dgrl.progress import track

T = TypeVar("T")
R = TypeVar("R")

_RETRIES = 3  # of a shard whose worker or node was lost; an error of the function is never tried again


def map_on_ray(
    function: Callable[[T], R], shards: Sequence[T], *, workers: int | None = None, description: str
) -> list[R]:
    """Call ``function`` on every shard as Ray tasks; see ``dgrl.parallel.shards.map_shards``.

    Runs on the cluster of the environment variable RAY_ADDRESS (``host:port``, or ``auto`` on a node of one),
    else on the cores of this machine; a program that is connected to Ray stays so. Every node needs dgrl
    installed and the caller's working directory under the same path, in which the tasks run: a shared file
    system. A node or worker that is lost costs the shards that it held, which run again elsewhere.

    Args:
        function: a module's function or a ``functools.partial`` of one; it may run twice on one shard.
        shards: the arguments, one per call.
        workers: tasks in flight; default one more than the cores of the cluster, so that one is always ready
            and an autoscaler sees that more cores are wanted.
        description: what the progress bar and Ray's list of tasks say.

    Returns:
        The results, in the order of ``shards``.

    Raises:
        InputError: if Ray is not installed, the cluster does not answer, or a node lacks the directory.
        WorkerError: if Ray lost a shard more often than it is tried again.
        Exception: the first error of ``function``, as it is; shards not in flight are dropped, the others
            waited for.
    """
    if not shards:
        return []
    ray = package("ray", "ray", "the ray backend")
    results: dict[int, R] = {}
    try:
        with _connected(ray, cores=min(workers or usable_cores(), len(shards))):
            completed = _completed(ray, function, shards, workers, description)
            results.update(track(completed, description, len(shards), "shard"))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error  # a RayTaskError shows the traceback on the worker
    except ray.exceptions.RayError as error:
        raise WorkerError(f"{description}: {_first_line(error)}") from error
    return [results[index] for index in range(len(shards))]


@contextlib.contextmanager
def _connected(ray: ModuleType, cores: int) -> Iterator[None]:
    """Connect to Ray, and undo no more than what was done here."""
    if ray.is_initialized():
        yield
        return
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    address = os.environ.get("RAY_ADDRESS")
    # Ray tells of lost workers and nodes on standard output, which is the command's own.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            if address:
                _connect(ray, address, quiet)
            else:
                ray.init("local", num_cpus=cores, **quiet)
            yield
        finally:
            ray.shutdown()  # ends a local Ray; from a cluster it only disconnects


def _connect(ray: ModuleType, address: str, options: dict[str, Any]) -> None:
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit() and "/" not in host:  # Ray itself would knock at a closed door for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, **options)
    except (ImportError, OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise InputError(
            f"no connection to the Ray cluster of RAY_ADDRESS={address} ({_first_line(error)}); unset "
            "RAY_ADDRESS to use this machine alone"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _completed(
    ray: ModuleType, function: Callable[[T], R], shards: Sequence[T], workers: int | None, description: str
) -> Iterator[tuple[int, R]]:
    """Index and result of every shard, as they complete."""
    task = ray.remote(_call).options(name=description, max_retries=_RETRIES)
    shared = ray.put(function)  # once: a partial may hold much
    folder = Path.cwd()
    waiting = iter(enumerate(shards))
    flying: dict[Any, int] = {}
    try:
        while True:
            room = max(0, (workers or _width(ray)) - len(flying))  # less than none where nodes were lost
            for index, shard in itertools.islice(waiting, room):
                flying[task.remote(shared, shard, folder)] = index
            if not flying:
                return
            (done,), _ = ray.wait(list(flying))
            yield flying[done], pickle.loads(ray.get(done))  # noqa: S301 (of our own task)
            del flying[done]
    finally:
        # The caller may delete what the shards write, so none may be at work when it hears of an error. No
        # ray.cancel: where it meets a task that is just being sent, it aborts this process.
        if flying:
            ray.wait(list(flying), num_returns=len(flying))


def _width(ray: ModuleType) -> int:
    """How many tasks to have in flight, now (nodes come and go): all cores busy, and one task waiting."""
    return 1 + int(ray.cluster_resources().get("CPU", 0))


def _call(function: Callable[[T], R], shard: T, folder: Path) -> bytes:
    """The task: runs in the caller's working directory, so that relative paths mean what they do there.

    Returns:
        The pickled result. Ray would hand out an array as a read-only view into its store.
    """
    if not folder.is_dir():
        raise InputError(f"Ray node {platform.node()} has no folder {folder}; the nodes must share files")
    with contextlib.chdir(folder):
        return pickle.dumps(function(shard))
