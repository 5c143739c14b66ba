"""RCAN's training when it is killed, fails or runs out of memory."""

import logging
import os
import re
import shutil
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_images import RCAN as PARAMS
from small_images import write_persons

from dgrl.errors import InputError
from dgrl.mlr.degrade import Degradation
from dgrl.superres.params import RcanParams
from dgrl.superres.pretrain import options, pretrain
from pipeline.params import load_params
from pipeline.pretrain_sr import pretrain_sr

PARAMS_FILE = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture(scope="module")
def train_hr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_persons(tmp_path_factory.mktemp("hr") / "train")


class Killer(logging.Handler):
    """Kills basicsr's child, and no other child of this process, at an iteration."""

    def __init__(self, iteration: int) -> None:
        super().__init__(logging.DEBUG)
        self.iteration = iteration
        self.first = 0

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.match(r"iteration (\d+)", record.getMessage()):
            self.first = self.first or int(found[1])
            if int(found[1]) >= self.iteration:
                for process in psutil.Process().children():
                    with suppress(psutil.NoSuchProcess):  # killed at the line before, and not yet reaped
                        if "dgrl.superres.child" in process.cmdline():
                            process.kill()


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_bytes_of_an_uninterrupted_one(
    train_hr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two epochs of basicsr; the loss is averaged over rows of 5 iterations, the state saved every 57."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    params = PARAMS.model_copy(update={"iterations": 1150, "warmup": 300, "ema_decay": 0.9})
    pretrain(train_hr, tmp_path / "whole", 3, params, tmp_path / "other")
    log, begun = logging.getLogger("dgrl.superres.pretrain"), []
    caplog.set_level(logging.DEBUG, log.name)
    for iteration in (20, 250, 600, 1120, 9999):
        killer = Killer(iteration)
        log.addHandler(killer)
        try:
            pretrain(train_hr, tmp_path / "resumed", 3, params, tmp_path / "work")
        except InputError as error:
            assert "killed" in str(error)  # noqa: PT017 (the last run is not killed)
        log.removeHandler(killer)
        begun.append(killer.first)
        assert (tmp_path / "resumed").exists() == (iteration == 9999)
    assert begun[0] == 5
    assert all(first > 5 for first in begun[2:])
    assert begun == sorted(begun)
    assert sum("resume after iteration" in message for message in caplog.messages) >= 3
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "resumed" / path.name).read_bytes() == path.read_bytes()


def test_the_scales_decide_nothing_of_one_scales_training(
    train_hr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run's state is found again after another scale was added, and not after another change."""
    params = load_params(PARAMS_FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    shutil.copytree(train_hr, "data/synthetic/mlr/train_hr")
    for name in ("dgrl", "pipeline", "dvc.yaml"):  # the code that the state depends on
        Path(name).symlink_to(PARAMS_FILE.parent / name)
    found: list[tuple[Path, Any]] = []

    def stop(table: Path, output: Path, scale: int, rcan: RcanParams, work: Path, how: Degradation) -> None:
        found.append((work, options(table, scale, rcan, work, how)))
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.pretrain_sr.pretrain", stop)
    for change in ({"scales": (2,)}, {"scales": (2, 3)}, {"seed": 1}):
        rcan = params.rcan.model_copy(update=change)
        with pytest.raises(KeyboardInterrupt):
            pretrain_sr("synthetic", 2, params.model_copy(update={"rcan": rcan}))
    mlr = params.mlr.model_copy(update={"recipe": "vpfa"})
    with pytest.raises(KeyboardInterrupt):
        pretrain_sr("synthetic", 2, params.model_copy(update={"mlr": mlr}))
    assert found[0] == found[1]
    assert len({work for work, _ in found[1:]}) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (1e30, r"rcan_x2: the L1 loss is (nan|inf) at iteration \d+ \(.*\); lower rcan\.learning_rate"),
        (1e39, r"the step of iteration 1 \(learning rate 1e\+39\) overflows; lower rcan\.learning_rate"),
    ],
)
def test_what_is_not_finite_stops_the_training(
    train_hr: Path, tmp_path: Path, rate: float, said: str
) -> None:
    params = PARAMS.model_copy(update={"learning_rate": rate, "warmup": 0})
    with pytest.raises(InputError, match=said):
        pretrain(train_hr, tmp_path / "x2", 2, params, tmp_path / "work")
    assert not (tmp_path / "x2").exists()


@pytest.mark.parametrize(
    ("ending", "error", "message"),
    [
        ("exit 3", RuntimeError, r"(?s)RCAN x2 failed with status 3; the end of .*log.txt:\n.*line 29$"),
        (
            "kill -9 $$",
            InputError,
            r"^RCAN x2 was killed, most often for want of memory; lower rcan.batch",
        ),
        ("kill -11 $$", RuntimeError, r"RCAN x2 ended by signal 11"),
        ("exit 65", InputError, r"^line 29$"),
    ],
)
def test_a_failed_child_is_quoted_and_earlier_results_stay(
    train_hr: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    error: type[Exception],
    message: str,
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nfor i in $(seq 29); do echo "line $i"; done\n{ending}\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(python))
    (tmp_path / "x2").mkdir()
    (tmp_path / "x2" / "metrics.json").write_text("{}")
    with pytest.raises(error, match=message) as caught:
        pretrain(train_hr, tmp_path / "x2", 2, PARAMS, tmp_path / "work")
    assert "line 10\n" not in str(caught.value)
    assert (tmp_path / "x2" / "metrics.json").read_text() == "{}"


@pytest.mark.parametrize("amount", [2**60, -1])
def test_too_little_memory_is_one_line(
    amount: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    from dgrl.superres import child

    def train(_: str) -> None:
        if amount < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        torch.empty(amount)

    monkeypatch.setattr(child, "train_pipeline", train)
    monkeypatch.setattr(child, "die_with_parent", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["child", str(tmp_path / "options.yml"), "1"])
    with pytest.raises(SystemExit, match=str(os.EX_DATAERR)):
        child.main()
    assert caplog.messages == [
        "RCAN ran out of memory; lower rcan.batch or rcan.patch, or free memory and run again: it resumes"
    ]
