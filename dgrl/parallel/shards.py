"""One function over many shards, on this machine or on a cluster."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from dgrl.parallel.processes import imap, usable_cores
from dgrl.parallel.ray import map_on_ray
from dgrl.progress import track

T = TypeVar("T")
R = TypeVar("R")

Backend = Literal["processes", "ray"]
DEFAULT_BACKEND: Backend = "processes"


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
        backend: ``processes`` of this machine, or tasks on a ``ray`` cluster (``map_on_ray``); the results
            are the same.

    Returns:
        The results, in the order of ``shards``.

    Raises:
        InputError: if Ray is wanted and not installed, or does not answer.
        WorkerError: if a worker process was killed.
        Exception: the first error of ``function``, as it is; shards not yet begun are dropped.
    """
    if backend == "ray":
        return map_on_ray(function, shards, workers=workers, description=description)
    workers = min(usable_cores() if workers is None else workers, len(shards))
    results = imap(function, shards, workers=workers, description=description)
    return list(track(results, description, len(shards), "shard"))
