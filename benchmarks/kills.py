"""Whether a run that is killed again and again ends with the weights of one that is not.

python benchmarks/kills.py [--kills 20] [--seed 0]

A clone of this repository's last commit trains a tiny network under DVC. Runs are killed at random moments,
by SIGKILL, SIGTERM and SIGINT in turn, sent to the training and to DVC in turn (DVC gets SIGINT with its
whole process group, as from Ctrl-C in a terminal); then `dvc repro` runs again. Whenever a run ends, its
model must have the digest of the one that was never killed. Exit status 1 if one has not, if a run fails that
was not killed, or if anything temporary is left at the end.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from dgrl.files import sha256
from dgrl.random import named_generator

REPOSITORY = Path(__file__).parents[1]
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
TARGETS = ["training", "dvc"]
RERUN = ["repro", "--force", "--no-run-cache", "--single-item", "train@synthetic"]
STEPS = 96  # of the training
ENDING = 5  # every so many runs, one is not killed

MOMENTS = ["start", "step", "checkpoint", "publishing"]
SHARES = [0.1, 0.45, 0.25, 0.2]  # of the kills
DELAYS = {"step": 0.2, "checkpoint": 0.1, "publishing": 1.0}  # seconds at most, after the moment has come


def tiny_params() -> dict[str, Any]:
    """A run of ``STEPS`` short steps, with a checkpoint every eight."""
    params: dict[str, Any] = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["source"]["synthetic"] |= {"persons": 16, "width": 32, "height": 64}
    params["mlr"]["factors"] = params["rcan"]["scales"] = [2]
    params["rcan"] |= {"iterations": 10, "warmup": 2}
    params["sr"]["method"] = "bicubic"
    params["model"] |= {"height": 32, "width": 32, "side_branches": False, "dimension": 16, "groups": 4}
    params["train"] |= {"persons_per_batch": 4, "epochs": 12}
    params["runtime"] |= {"log_every": 1, "checkpoint_every": 8}
    params["train"]["ema_decay"] = 0.9
    return params


class Failure(Exception):  # noqa: N818
    """What must not happen."""


class Run:
    """``dvc`` in a clone of the project, in a process group of its own."""

    def __init__(self, project: Path, arguments: list[str]) -> None:
        self.project = project
        self.log = project.with_suffix(".log")
        self.live = project / "data/synthetic/dgrl/live/metrics.json"
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(project),
            "DVC_SITE_CACHE_DIR": str(project.with_suffix(".cache")),
        }
        with self.log.open("w") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", "dvc", *arguments],
                cwd=project,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ended(self) -> bool:
        return self.process.poll() is not None

    def finish(self) -> None:
        """Wait for the end.

        Raises:
            Failure: if it is not a good one.
        """
        if status := self.process.wait():
            raise Failure(f"dvc ended with status {status}:\n{self.log.read_text()}")

    def training(self) -> psutil.Process | None:
        """The process of the train stage."""
        try:
            found = [each for each in self.process.children(recursive=True) if "train" in each.cmdline()]
        except psutil.NoSuchProcess:
            return None
        return found[0] if found else None

    def kill(self, number: signal.Signals, target: str) -> bool:
        """Send the signal and wait until nothing of the run is left; False if the target was not there."""
        everything = [self.process, *self.process.children(recursive=True)]
        victim = self.process if target == "dvc" else self.training()
        if victim is None or self.ended():
            return False
        if target == "dvc" and number == signal.SIGINT:
            os.killpg(victim.pid, number)
        else:
            victim.send_signal(number)
        _, alive = psutil.wait_procs(everything, timeout=60)
        if alive:
            raise Failure(f"{alive} outlived {number.name} to {target}")
        return True

    def origin(self) -> int | None:
        """The step that the training began at, as it says itself; None if it has not begun."""
        text = self.log.read_text()
        resumed = re.search(r"resume at step (\d+)", text)
        begun = re.search(r"train \d+ persons", text)
        return int(resumed[1]) if resumed else 0 if begun else None

    def step(self) -> int:
        """The last one that was logged, 0 if none was."""
        try:  # DVC deletes an earlier run's file before the training begins
            metrics = self.live.read_text() if self.origin() is not None else "{}"
            return int(json.loads(metrics).get("step", 0))
        except (FileNotFoundError, json.JSONDecodeError):  # not yet, or being written
            return 0

    def writes_checkpoint(self) -> bool:
        return any(self.project.glob(".work/train-*/.checkpoint.pt.*.tmp"))

    def publishes(self) -> bool:
        return self.step() == STEPS and any(self.live.parents[1].glob("*model.safetensors*"))

    def where(self) -> str:
        """How far the run has come."""
        training = self.training() is not None
        if self.publishes():
            return "publishing" if training else "after the training"
        if self.writes_checkpoint():
            return f"writing checkpoint {self.step()}"
        if step := self.step():
            return f"step {step}"
        return "imports, decoding" if training else "before the training"


def wait_for(run: Run, condition: Callable[[], bool]) -> None:
    """Until the condition holds or the run has ended."""
    while not condition() and not run.ended():
        time.sleep(0.002)


def wait_for_moment(run: Run, rng: np.random.Generator, startup: float) -> None:
    """A moment drawn at random; it may come after the run's end."""
    moment = rng.choice(MOMENTS, p=SHARES)
    share = rng.random()
    if moment == "start":
        time.sleep(share * startup)
        return
    if moment == "publishing":
        wait_for(run, run.publishes)
    else:
        wait_for(run, lambda: run.origin() is not None)
        step = int(rng.integers(run.origin() or 0, STEPS, endpoint=True))
        wait_for(run, lambda: run.step() >= step)
    if moment == "checkpoint":
        wait_for(run, run.writes_checkpoint)
    time.sleep(share * DELAYS[moment])


def strike(run: Run, number: signal.Signals, target: str, rng: np.random.Generator, startup: float) -> str:
    """Kill at a random moment; returns how far the run had come, or nothing if it ended first."""
    wait_for_moment(run, rng, startup)
    if target == "training":
        wait_for(run, lambda: run.training() is not None)
    where = run.where()
    return where if run.kill(number, target) else ""


def kill_often(project: Path, kills: int, seed: int) -> None:
    """Print what happened to each run.

    Raises:
        Failure: if a model differs, a run fails that was not killed, or something is left.
    """
    expected, startup = first_run(project)
    print(f"{'run':>3}  {'began at':11}{'killed by':21}{'when it was at':24}model")
    killed = number = 0
    spared = False
    while killed < kills or not spared:
        number += 1
        spared = killed == kills or number % ENDING == 0
        name, target = SIGNALS[killed % len(SIGNALS)], TARGETS[killed % len(TARGETS)]
        run = Run(project, RERUN)
        rng = named_generator("kills", seed, number)
        where = "" if spared else strike(run, name, target, rng, startup)
        if not where:
            run.finish()
        killed += bool(where)
        model = ""
        if run.process.wait() == 0:
            model = "equal" if model_digest(project) == expected else "DIFFERENT"
        by = f"{name.name} to {target}" if where else "-"
        print(f"{number:3}  {began_at(run):11}{by:21}{where or 'ended':24}{model}", flush=True)
        if model == "DIFFERENT":
            raise Failure(f"run {number} has other weights than the one that was not killed")
    if left := [*project.glob(".work/train-*"), *project.glob("data/**/.*.tmp")]:
        raise Failure(f"left at the end: {left}")
    print(f"{killed} kills in {number} runs; every run that ended has the same weights")


def first_run(project: Path) -> tuple[str, float]:
    """The digest of the model that no kill disturbed, and the seconds from DVC's start to the first step."""
    Run(project, ["repro", "cache_sr@synthetic"]).finish()
    started = time.monotonic()
    run = Run(project, RERUN)
    wait_for(run, lambda: run.step() > 0)
    startup = time.monotonic() - started
    run.finish()
    return model_digest(project), startup


def began_at(run: Run) -> str:
    origin = run.origin()
    return "-" if origin is None else f"step {origin}" if origin else "the start"


def model_digest(project: Path) -> str:
    return sha256(project / "data/synthetic/dgrl/model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else inherited as ignored from a shell's `&`
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        subprocess.run(["git", "clone", "--quiet", REPOSITORY, project], check=True)
        (project / "params.yaml").write_text(yaml.safe_dump(tiny_params(), sort_keys=False))
        try:
            kill_often(project, args.kills, args.seed)
        except Failure as failure:
            sys.exit(f"failed: {failure}")


if __name__ == "__main__":
    main()
