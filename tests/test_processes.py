"""map_shards and imap: order, errors, killed workers; and children that end with their parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dgrl.errors import InputError, WorkerError
from dgrl.parallel.processes import imap, usable_cores
from dgrl.parallel.shards import map_shards


def _slow_first(number: int) -> tuple[int, int]:
    time.sleep(0.3 if number == 0 else 0.0)
    return number * number, os.getpid()


def _reject(number: int) -> int:
    if number == 1:
        raise InputError("shard 1 is truncated")
    return number


def _reject_then_note(shard: tuple[int, Path]) -> None:
    number, folder = shard
    if number == 0:
        raise InputError("shard 0 is truncated")
    time.sleep(0.2)
    (folder / str(number)).touch()


def _threads(number: int) -> tuple[int, int]:
    import torch

    return torch.get_num_threads(), os.getpid()


def _visible_gpu(number: int) -> str:
    time.sleep(0.3)  # so that the other process gets some of the jobs
    return os.environ["CUDA_VISIBLE_DEVICES"]


def _kill_self(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_results_keep_the_order_of_the_shards() -> None:
    results = map_shards(_slow_first, range(6), workers=2, description="squares")
    assert [square for square, _ in results] == [0, 1, 4, 9, 16, 25]
    assert os.getpid() not in {process for _, process in results}


@pytest.mark.parametrize(("shards", "workers"), [(range(3), 1), (range(1), 4)])
def test_one_worker_runs_in_this_process(shards: range, workers: int) -> None:
    results = map_shards(_slow_first, shards, workers=workers, description="squares")
    assert {process for _, process in results} == {os.getpid()}


def test_no_shards_no_results() -> None:
    assert map_shards(_reject, [], description="nothing") == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_raised_as_it_is(workers: int) -> None:
    with pytest.raises(InputError, match=r"^shard 1 is truncated$"):
        map_shards(_reject, range(4), workers=workers, description="reading")


def test_an_error_drops_the_shards_not_yet_begun(tmp_path: Path) -> None:
    shards = [(number, tmp_path) for number in range(40)]
    with pytest.raises(InputError, match="shard 0"):
        map_shards(_reject_then_note, shards, workers=2, description="reading")
    assert len(list(tmp_path.iterdir())) < 39


def test_a_killed_worker_is_named() -> None:
    with pytest.raises(WorkerError, match=r"^reading: a worker process was killed.*fewer workers$"):
        map_shards(_kill_self, range(4), workers=2, description="reading")


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_are_read_as_they_are_needed(workers: int) -> None:
    read: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    results = imap(_slow_first, jobs(), workers=workers, description="squares")
    squares = [next(results)[0] for _ in range(3)]
    assert squares == [0, 1, 4]
    assert len(read) <= 3 + 2 * workers
    squares += [square for square, _ in results]
    assert squares == [number * number for number in range(100)]


def test_an_error_of_the_jobs_is_raised_as_it_is() -> None:
    jobs = (_reject(number) for number in range(4))
    with pytest.raises(InputError, match=r"^shard 1 is truncated$"):
        list(imap(_slow_first, jobs, workers=2, description="squares"))


@pytest.mark.parametrize("workers", [1, 2])
def test_each_process_computes_with_one_thread(workers: int) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        torch.ones(1000, 1000).matmul(torch.ones(1000, 1000))  # so that threads exist that a fork would lose
        results = list(imap(_threads, range(4), workers=workers, description="threads"))
        assert {threads for threads, _ in results} == {1}
        assert (os.getpid() in {process for _, process in results}) == (workers == 1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_each_process_sees_one_gpu_in_turn() -> None:
    results = list(imap(_visible_gpu, range(8), workers=2, description="gpus", gpus=["3", "GPU-5e"]))
    assert set(results) == {"3", "GPU-5e"}


def test_ray_where_it_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'dgrl\[ray\]'"):
        map_shards(_reject, [0], description="reading", backend="ray")


def test_ray_is_not_started_for_no_shards() -> None:
    assert map_shards(_reject, [], description="nothing", backend="ray") == []


@pytest.mark.parametrize(
    ("quota", "cores"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None)]
)
def test_usable_cores_respects_the_quota_of_a_container(
    tmp_path: Path, quota: str, cores: int | None
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(f"{quota}\n")
    assert usable_cores(file) == (cores or usable_cores(tmp_path / "none"))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no processor affinity on this system")
def test_usable_cores_respects_the_affinity() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


PARENT = """
import os, subprocess, sys
child = "import sys, time; from dgrl.parallel.processes import die_with_parent;" \
    "die_with_parent(int(sys.argv[1]));" \
    "sys.stdout.write('ready'); sys.stdout.flush(); time.sleep(600)"
process = subprocess.Popen([sys.executable, "-c", child, str(os.getpid())], stdout=subprocess.PIPE)
process.stdout.read(5)
sys.stdout.write(f"{process.pid}\\n")
sys.stdout.flush()
process.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_child_ends_with_its_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        # The child holds no end of this pipe; poll until the system has reaped or zombified it.
        for _ in range(100):
            if not _runs(child):
                break
            time.sleep(0.1)
        else:
            os.kill(child, signal.SIGKILL)
            pytest.fail("the child outlived its parent")


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
