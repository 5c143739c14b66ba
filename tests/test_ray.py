"""map_shards on Ray: a two-node cluster, a node killed mid-job, errors, silence."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgrl.errors import InputError, WorkerError
from dgrl.mlr.degrade import Entry, make_row
from dgrl.parallel.shards import map_shards
from dgrl.random import named_generator
from dgrl.tables import ImageRow, read_rows, shards, write_shard

ray = pytest.importorskip("ray", reason="the extra dgrl[ray] is not installed")

pytestmark = [pytest.mark.slow]

MEMORY = 80 * 2**20  # bytes of each node's object store; Ray's least is 75 MiB
OUTPUT = Path("output")
RUNS = Path("runs")
FINISHED, STUCK = Path("finished"), Path("stuck")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node, which RAY_ADDRESS names."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(Path(__file__).parent))  # the tasks are functions of this file
        options = {"num_cpus": 2, "object_store_memory": MEMORY, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=options)
        try:
            environment.setenv("RAY_ADDRESS", cluster.address)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of eight shards, by a path relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = Path("images")
    for number in range(8):
        write_shard(folder / f"part-{number:05d}.parquet", [_row(f"{number}-{k}") for k in range(6)])
    OUTPUT.mkdir()
    return folder


def _row(name: str) -> ImageRow:
    pixels = named_generator("image", name).integers(0, 256, (67, 31, 3), np.uint8)
    keys: Any = {"image_id": name, "person_id": name[0], "camera_id": "a", "subset": "train"}
    return ImageRow.from_pixels(pixels, f"{name}.png", factor=1, **keys)


def _shrink(shard: Path) -> str:
    """What the split stage does to a shard."""
    rows = [
        make_row(row, Entry("train_lr", row.image_id, 2 + index % 3))
        for index, row in enumerate(read_rows(shard))
    ]
    write_shard(OUTPUT / shard.name, rows)
    return shard.name


def _shrink_or_stick(shard: Path, doomed: str) -> str:
    """As _shrink; but the doomed node never ends its second shard, and the other node waits for that."""
    with (RUNS / shard.name).open("a") as file:
        file.write("1")
    if ray.get_runtime_context().get_node_id() != doomed:
        _wait_for(STUCK)
        return _shrink(shard)
    if FINISHED.exists():
        left = OUTPUT / f".{shard.name}.0000.tmp"  # as a killed writer leaves it
        left.mkdir(parents=True)
        (left / shard.name).write_bytes(b"half a shard")
        STUCK.touch()
        time.sleep(600)
    name = _shrink(shard)
    FINISHED.touch()
    return name


def _wait_for(path: Path) -> None:
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.1)
    raise TimeoutError(path)


def _square(number: int) -> tuple[int, np.ndarray[Any, Any], int]:
    return number * number, np.full(2**18, number), os.getpid()


def _reject(number: int, folder: Path) -> None:
    """Shard 1 is bad, but only once another shard is at work, which goes on for a while after it."""
    if number == 1:
        _wait_for(folder / "begun-0")
        (folder / "rejected-1").touch()
        raise InputError("shard 1 is truncated")
    (folder / f"begun-{number}").touch()
    _wait_for(folder / "rejected-1")
    time.sleep(3)  # the caller hears of the error meanwhile, also on a busy machine
    (folder / f"ended-{number}").touch()


def _kill_self(number: int) -> None:
    os._exit(1)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_results_keep_the_order_of_the_shards_and_are_those_of_processes(cluster: Any) -> None:
    on_ray = map_shards(_square, range(9), description="squares", backend="ray")
    in_process = map_shards(_square, range(9), workers=1, description="squares")
    assert [square for square, _, _ in on_ray] == [square for square, _, _ in in_process]
    for (_, left, _), (_, right, _) in zip(on_ray, in_process, strict=True):
        np.testing.assert_array_equal(left, right)
        assert left.flags.writeable
    assert os.getpid() not in {process for _, _, process in on_ray}


def test_it_disconnects_what_it_connected_and_no_more(cluster: Any) -> None:
    assert map_shards(_square, [3], description="squares", backend="ray")[0][0] == 9
    assert not ray.is_initialized()
    ray.init(cluster.address, log_to_driver=False, logging_level="error")
    try:
        assert map_shards(_square, [4], description="squares", backend="ray")[0][0] == 16
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_an_error_is_raised_as_it_is_and_leaves_nothing_at_work(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^shard 1 is truncated$") as caught:
        map_shards(
            partial(_reject, folder=tmp_path), range(40), workers=2, description="reading", backend="ray"
        )
    assert type(caught.value) is InputError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun-0", "ended-0", "rejected-1"]


def test_a_lost_node_costs_only_its_tasks(
    cluster: Any, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    map_shards(_shrink, shards(table), workers=1, description="split")
    expected = _files(OUTPUT)
    for path in OUTPUT.iterdir():
        path.unlink()
    RUNS.mkdir()
    doomed = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)

    def kill() -> None:
        _wait_for(STUCK)
        cluster.remove_node(doomed, allow_graceful=False)

    with ThreadPoolExecutor(1) as killer:
        killing = killer.submit(kill)
        function = partial(_shrink_or_stick, doomed=doomed.node_id)
        names = map_shards(function, shards(table), description="split", backend="ray")
        killing.result()
    assert FINISHED.exists()
    assert names == [path.name for path in shards(table)]
    assert _files(OUTPUT) == expected
    # One shard ran twice: the one that the node died with, not the one that it had finished.
    assert sorted(_files(RUNS).values()) == [b"1"] * 7 + [b"11"]
    assert capsys.readouterr().out == ""


def test_a_shard_that_kills_its_workers_is_given_up(cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WorkerError, match=r"^reading: .*worker died"):
        map_shards(_kill_self, range(1), description="reading", backend="ray")
    assert capsys.readouterr().out == ""


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match=r"RAY_ADDRESS=127\.0\.0\.1:1 .*refused.*unset RAY_ADDRESS"):
        map_shards(_square, [1], description="squares", backend="ray")


LOCAL = """
import os, sys
from dgrl.parallel.shards import map_shards
assert "ray" not in sys.modules
assert map_shards(os.path.basename, ["a/b", "c/d"], description="names", backend="ray") == ["b", "d"]
"""


def test_without_a_cluster_it_starts_one_and_says_nothing(tmp_path: Path) -> None:
    # HOME: Ray keeps its authentication token there.
    environment = os.environ | {"HOME": str(tmp_path)}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-c", LOCAL],
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
