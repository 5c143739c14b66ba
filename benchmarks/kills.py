"""Whether stages that are killed again and again end with the bytes of a run that is not.

python benchmarks/kills.py [--kills 100] [--seed 0]

In a copy of this repository, all six stages run under DVC on a tiny set. Then each in turn is run again and
killed at a random moment, by SIGKILL, SIGTERM and SIGINT in turn. Who is killed changes in turn, too: DVC
(with SIGINT its whole process group, as from Ctrl-C in a terminal), the stage's process, a child of it
(RCAN's training, a worker of a pool; the stage where it has none), and, without DVC, two processes of the
stage that run at once, one of them or both. After every second kill the stage is run to its end.

Whenever it ends, what it has written must be the bytes that were there before the first kill, and so must,
always, be what other stages have written. A dvc.lock that DVC was just writing is deleted. Exit status 1 if
the bytes differ, if a run fails that was not killed, or if anything temporary is left at the end.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from dgrl.files import sha256
from dgrl.random import named_generator

REPOSITORY = Path(__file__).parents[1]
COPIED = ("dgrl", "pipeline", "dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config")
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
TARGETS = ["dvc", "stage", "child", "two"]
ENDING = 2  # kills of a stage, until it is run to its end
PATIENCE = 600  # seconds for what must end by itself
STAGES = {  # of the command line: name in dvc.yaml, and the folders below data/synthetic that it writes
    "download synthetic": ("download@synthetic", ["images"]),
    "split synthetic": ("split@synthetic", ["mlr"]),
    "pretrain-sr synthetic 2": ("pretrain_sr@synthetic-2", ["rcan"]),
    "cache-sr synthetic": ("cache_sr@synthetic", ["sr"]),
    "train synthetic": ("train@synthetic", ["dgrl"]),
    "evaluate synthetic": ("evaluate@synthetic", ["eval"]),
}

Digests = dict[str, str]


class Failure(Exception):  # noqa: N818
    """What must not happen."""


def tiny_params() -> dict[str, Any]:
    """Stages of a second or two, in several shards, steps and checkpoints."""
    params: dict[str, Any] = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["source"]["synthetic"] |= {"persons": 16, "width": 32, "height": 64}
    params["mlr"]["factors"] = params["rcan"]["scales"] = [2]
    params["rcan"] |= {"iterations": 200, "warmup": 2}
    params["model"] |= {"height": 32, "width": 32, "side_branches": False, "dimension": 16, "groups": 4}
    params["train"] |= {"persons_per_batch": 4, "epochs": 6, "ema_decay": 0.9}
    params["runtime"] |= {"log_every": 1, "checkpoint_every": 4, "workers": 2}
    return params


class Project:
    """A copy of the project, in which commands are started in process groups of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.log = folder / "log.txt"
        for name in COPIED:
            source, copy = REPOSITORY / name, self.folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy)
        (self.folder / "params.yaml").write_text(yaml.safe_dump(tiny_params(), sort_keys=False))
        subprocess.run(["git", "init", "--quiet"], cwd=self.folder, check=True)
        commit = ["-c", "user.name=kills", "-c", "user.email=kills@example.org", "commit", "--allow-empty"]
        subprocess.run(
            ["git", *commit, "--quiet", "-m", "project"], cwd=self.folder, check=True
        )  # for DVCLive
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "DVC_SITE_CACHE_DIR": str(folder / "cache"),
        }

    def start(self, *words: str) -> psutil.Popen:
        """Start ``python -m``."""
        with self.log.open("a") as log:
            return psutil.Popen(
                [sys.executable, "-m", *words],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_heed_interrupts,
            )

    def start_stage(self, stage: str, *, dvc: bool) -> psutil.Popen:
        """Start a stage, whatever it has written before."""
        if not dvc:
            return self.start("pipeline", *stage.split())
        rerun = ["--force", "--no-run-cache", "--single-item"]
        return self.start("dvc", "repro", *rerun, STAGES[stage][0])

    def mend_lock(self) -> bool:
        """Delete a dvc.lock that DVC was writing when it was killed, as its user must; whether it was one."""
        lock = self.folder / "dvc.lock"
        if not lock.exists():
            return False
        try:
            damaged = not {"schema", "stages"} <= set(yaml.safe_load(lock.read_text()) or ())
        except yaml.YAMLError:
            damaged = True
        if damaged:
            lock.unlink()
        return damaged

    def finish(self, run: psutil.Popen) -> None:
        """Wait for a good end.

        Raises:
            Failure: if it is another.
        """
        if status := run.wait(PATIENCE):
            raise Failure(f"{run.args} ended with status {status}:\n{self.log.read_text()[-5000:]}")

    def digests(self) -> dict[str, Digests]:
        """What each stage has published: the SHA-256 of each file, less the curves, which hold the speed."""
        return {stage: self._digests(folders) for stage, (_, folders) in STAGES.items()}

    def _digests(self, folders: list[str]) -> Digests:
        root = self.folder / "data/synthetic"
        files = (path for folder in folders for path in (root / folder).rglob("*") if path.is_file())
        names = {str(path.relative_to(root)): path for path in files}
        return {
            name: sha256(path)
            for name, path in names.items()
            if "/live/" not in name and "/." not in name and not name.endswith(".gitignore")
        }

    def left(self) -> list[Path]:
        """Temporary files, locks and resume states."""
        hidden = [path for path in self.folder.glob("data/**/.*") if path.suffix in {".tmp", ".lock"}]
        return [*hidden, *(path for path in self.folder.glob(".work/*") if path.suffix != ".json")]


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # else inherited as ignored from a shell's `&`


def stage_process(run: psutil.Popen) -> psutil.Process | None:
    """The stage that DVC has started."""
    return next((each for each in descendants(run) if "pipeline" in each.cmdline()), None)


def descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill(run: psutil.Popen, number: signal.Signals, target: str) -> bool:
    """Kill one process of a run and wait for the end of all; False if the run had ended or was not hurt."""
    everything = [run, *descendants(run)]
    victim: psutil.Process | None = run
    if target in ("stage", "child") and "dvc" in run.args:
        victim = stage_process(run)
    if target == "child" and victim is not None:
        victim = next(iter(descendants(victim)), victim)
    try:
        if target == "dvc" and number == signal.SIGINT:
            os.killpg(run.pid, number)
        elif victim is not None:
            victim.send_signal(number)
    except (psutil.NoSuchProcess, ProcessLookupError):  # it has just ended
        victim = None
    _, alive = psutil.wait_procs(everything, timeout=PATIENCE)
    if alive:
        raise Failure(f"{alive} outlived {number.name} to {target}")
    return victim is not None and run.wait() != 0


class Kills:
    """The kills of a project, and what they must leave as it is."""

    def __init__(self, project: Project, seed: int) -> None:
        self.project, self.seed = project, seed
        self.done = self.equal = self.locks = 0  # kills, runs that ended, files of DVC that were damaged
        project.finish(project.start("dvc", "repro", "inputs@synthetic"))
        self.seconds = {stage: self._measure(stage) for stage in STAGES}
        self.expected = project.digests()

    def _measure(self, stage: str) -> float:
        """How long the stage takes under DVC, run for the first time."""
        begun = time.monotonic()
        self.project.finish(self.project.start_stage(stage, dvc=True))
        return time.monotonic() - begun

    def run(self, kills: int) -> None:
        """Kill until there were as many kills, and print each.

        Raises:
            Failure: see the top of this file.
        """
        print(f"seed {self.seed}; kills so far, moment (s), stage, signal, target, outcome", flush=True)
        attempt = 0
        while self.done < kills:
            stage = list(STAGES)[attempt // ENDING % len(STAGES)]
            turn = attempt + attempt // (
                ENDING * len(STAGES)
            )  # so that each stage meets each signal and target
            self._strike(attempt, stage, SIGNALS[turn % len(SIGNALS)], TARGETS[turn % len(TARGETS)])
            attempt += 1
            if attempt % ENDING == 0 or self.done >= kills:  # the next stage needs what this one writes
                self._end(stage, dvc=attempt % 4 == 0)
        if left := self.project.left():
            raise Failure(f"left at the end: {left}")
        print(f"{self.done} kills: {self.outcome}")

    @property
    def outcome(self) -> str:
        """What followed, in one line."""
        return (
            f"{self.equal} runs to the end afterwards, all with equal bytes, nothing left; "
            f"dvc.lock damaged, by DVC, and deleted: {self.locks}; seed {self.seed}"
        )

    def _strike(self, attempt: int, stage: str, number: signal.Signals, target: str) -> None:
        moment = named_generator("kills", self.seed, attempt).random() * self.seconds[stage]
        runs = [
            self.project.start_stage(stage, dvc=target != "two") for _ in range(2 if target == "two" else 1)
        ]
        if target in ("stage", "child"):
            while stage_process(runs[0]) is None and runs[0].poll() is None:
                time.sleep(0.02)
        time.sleep(moment if target == "dvc" else 0.6 * moment)  # without DVC's own start
        spared = runs[1:] if attempt % 2 else []
        killed = sum(kill(run, number, target) for run in runs if run not in spared)
        self.done += killed
        shown = f"{killed} killed" if killed else "ended well"
        self.locks += self.project.mend_lock()
        print(f"{self.done:4} {moment:6.2f}  {stage:24} {number.name:8} {target:6} {shown}", flush=True)
        for run in runs if not killed else spared:  # which may have waited for the other
            self.project.finish(run)
        self._check(stage, ended=bool(spared))

    def _end(self, stage: str, *, dvc: bool) -> None:
        self.project.finish(self.project.start_stage(stage, dvc=dvc))
        self._check(stage, ended=True)

    def _check(self, stage: str, *, ended: bool) -> None:
        """Compare with the bytes before the first kill, of which DVC deletes some before a stage runs."""
        for each, found in self.project.digests().items():
            expected = self.expected[each]
            if found != expected and (ended or each != stage or not found.items() <= expected.items()):
                raise Failure(f"{each} has other files after a kill of {stage}: {found}, not {expected}")
        if ended:
            self.equal += 1


def kill_stages(kills: int, seed: int) -> tuple[int, str]:
    """Kill stages in a project of its own; returns the number of kills and what followed.

    Raises:
        Failure: see the top of this file.
    """
    with tempfile.TemporaryDirectory() as folder:
        harness = Kills(Project(Path(folder)), seed)
        harness.run(kills)
        return harness.done, harness.outcome


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    try:
        kill_stages(args.kills, args.seed)
    except Failure as failure:
        sys.exit(f"failed: {failure}")


if __name__ == "__main__":
    main()
