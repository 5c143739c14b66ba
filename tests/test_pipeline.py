"""The whole DAG on a tiny synthetic set: DVC, resume after kill -9, experiments."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from dgrl.tables import read_keys

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
MODEL = Path("data/synthetic/dgrl/model.safetensors")


def dvc(project: Path, *arguments: str, check: bool = True) -> str:
    """Run DVC to its end; returns what it printed."""
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["dvc", *arguments], cwd=project, env=environment, text=True, capture_output=True, check=False
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def git(project: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=project, check=True, capture_output=True)


def stages_run(output: str) -> list[str]:
    """The stages that ran, without inputs, which runs each time."""
    ran = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
    return [stage for stage in ran if not stage.startswith("inputs")]


def changed(project: Path) -> set[str]:
    """The stages whose own params or dependencies are not those of their last run."""
    stages = json.loads(dvc(project, "status", "--json"))
    return {stage.removesuffix("@synthetic") for stage in stages} - {"inputs"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the project with tiny params, after its first ``dvc repro``."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("dgrl", "pipeline", "dvc.yaml", ".dvcignore", ".gitignore"):
        source = REPOSITORY / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    (folder / ".dvc").mkdir()
    shutil.copy(REPOSITORY / ".dvc/config", folder / ".dvc/config")
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["source"]["synthetic"] |= {"persons": 16, "width": 32, "height": 64}
    params["mlr"]["factors"], params["rcan"]["scales"] = [2], [2]
    params["rcan"] |= {"iterations": 10, "warmup": 2, "features": 16}
    params["model"] |= {"height": 32, "width": 32, "dimension": 16, "groups": 4}
    params["train"] |= {"persons_per_batch": 4, "epochs": 12, "learning_rate": 0.005}
    params["runtime"] |= {"checkpoint_every": 4, "log_every": 4}
    params["evaluate"]["rerank"] = True
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    git(folder, "init")
    git(folder, "add", "--all")
    git(folder, "commit", "-m", "project")  # DVCLive wants a commit
    dvc(folder, "repro")
    git(folder, "add", "--all")
    git(folder, "commit", "-m", "baseline")
    return folder


def test_every_stage_leaves_its_files(project: Path) -> None:
    root = project / "data/synthetic"
    assert {len(read_keys(root / "mlr" / name)) for name in ("train_hr", "train_lr")} == {64}
    assert list(read_keys(root / "sr/train").image_id) == list(read_keys(root / "mlr/train_hr").image_id)
    metrics = json.loads((root / "eval/metrics.json").read_text())["synthetic"]
    assert {"rank1", "rank5", "rank10", "mAP", "mINP", "multi_shot", "rerank", "factor2", "options"} <= set(
        metrics
    )
    assert len(pd.read_csv(root / "eval/cmc.csv")) == 20
    embeddings = pd.read_parquet(root / "eval/embeddings.parquet")
    assert embeddings.subset.value_counts().to_dict() == {"gallery": 48, "query": 16}
    assert "<svg" in (root / "eval/report.html").read_text()
    assert len(list((root / "eval/ranked").glob("*.png"))) == 8
    curves = {path.stem for path in (root / "dgrl/live/plots/metrics/synthetic").rglob("*.tsv")}
    assert {"id", "wrt", "l1", "kl", "total", "learning_rate", "images_per_second"} <= curves
    assert not [path for path in project.glob(".work/*-*") if path.is_dir()]


def test_a_second_repro_runs_no_stage(project: Path) -> None:
    assert stages_run(dvc(project, "repro")) == []


def test_an_empty_dvc_lock_is_deleted_and_nothing_is_computed_again(project: Path) -> None:
    """What DVC leaves when it is killed while it writes the file: README names this remedy."""
    lock, model = project / "dvc.lock", (project / MODEL).read_bytes()
    text = lock.read_text()
    lock.write_bytes(b"")
    assert "dvc.lock' validation failed" in dvc(project, "repro", check=False)
    lock.unlink()
    assert stages_run(dvc(project, "repro")) == []
    assert (project / MODEL).read_bytes() == model
    assert yaml.safe_load(lock.read_text()) == yaml.safe_load(text)


MODEL_USERS = {"train", "evaluate"}
SR_STAGES = {"pretrain_sr@synthetic-2", "cache_sr"}


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("dgrl/model/network.py", MODEL_USERS),  # DGRL.embed is the test pass
        ("dgrl/model/losses.py", {"train"}),
        ("dgrl/evaluation/ranking.py", MODEL_USERS),  # train.eval_every
        ("dgrl/evaluation/adaptation.py", {"evaluate"}),
        ("dgrl/random.py", {"download", "split", "pretrain_sr@synthetic-2", *MODEL_USERS}),
        ("dgrl/images.py", {"download", "split", *SR_STAGES, *MODEL_USERS}),
        ("dgrl/tables.py", {"download", "split", *SR_STAGES, *MODEL_USERS}),
        ("dgrl/parallel/processes.py", {"download", "split", *SR_STAGES, *MODEL_USERS}),
        ("dgrl/superres/child.py", {"pretrain_sr@synthetic-2"}),
        ("dgrl/errors.py", set()),
        ("dgrl/progress.py", set()),
    ],
)
def test_an_edit_reruns_the_stages_that_import_the_file(project: Path, file: str, stages: set[str]) -> None:
    text = (project / file).read_text()
    try:
        (project / file).write_text(text + "# edited\n")
        assert changed(project) == stages
    finally:
        (project / file).write_text(text)


@pytest.mark.parametrize(
    ("before", "after", "stages"),
    [
        ("gamma: 5.0", "gamma: 1.0", {"train"}),
        ("flip: false", "flip: true", {"evaluate"}),
        ("viper: cam_a", "viper: cam_b", set()),
        ("synthetic: c1", "synthetic: c2", {"split"}),
        ("storage: auto", "storage: file", set()),
        ("log_every: 4", "log_every: 1", set()),
        ("checkpoint_every: 4", "checkpoint_every: 1", set()),
        ("workers: null", "workers: 1", set()),
        ("cache: null", "cache: elsewhere", set()),
        ("method: rcan", "method: bicubic", SR_STAGES),
        ("  weights: null", "  weights: elsewhere", {"pretrain_sr@synthetic-2"}),
        ("  scales:\n  - 2\n", "  scales:\n  - 2\n  - 8\n", {"pretrain_sr@synthetic-8", "cache_sr"}),
    ],
)
def test_a_param_reruns_the_stages_that_read_it(
    project: Path, before: str, after: str, stages: set[str]
) -> None:
    params = project / "params.yaml"
    text = params.read_text()
    assert text.count(before) == 1
    try:
        params.write_text(text.replace(before, after))
        assert changed(project) == stages
    finally:
        params.write_text(text)


def test_without_an_environment_one_line_says_what_to_do(tmp_path: Path) -> None:
    """DVC's own Python may not be the one that a stage's command finds."""
    words = [
        sys.executable,
        "-S",
        "-m",
        "pipeline",
        "inputs",
        "synthetic",
    ]  # -S: without the installed packages
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "activate the project's environment" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_same_params_give_the_same_bytes(project: Path) -> None:
    before = digests(project)
    dvc(project, "repro", "--force", "--no-run-cache", "split@synthetic")
    dvc(project, "repro", "--force", "--no-run-cache", "--single-item", "cache_sr@synthetic")
    assert digests(project) == before


def digests(project: Path) -> dict[str, str]:
    tables = sorted((project / "data/synthetic").glob("[ims]*/**/*.parquet"))
    return {str(path.relative_to(project)): hashlib.sha256(path.read_bytes()).hexdigest() for path in tables}


def test_training_survives_kill_9(project: Path) -> None:
    expected = hashlib.sha256((project / MODEL).read_bytes()).hexdigest()
    rerun = ["repro", "--force", "--no-run-cache", "--single-item", "train@synthetic"]
    for victim in (find_training, find_dvc):
        with started(project, rerun) as run:
            wait_for(lambda: list((project / ".work").glob("train-*/checkpoint.pt")))
            os.kill(victim(project, run), signal.SIGKILL)
            run.wait()
            wait_for(lambda: find_training(project, run) == 0)  # DVC's child dies with it
        assert not (project / MODEL).exists()
    output = dvc(project, *rerun)
    assert "resume at step" in output
    assert hashlib.sha256((project / MODEL).read_bytes()).hexdigest() == expected
    assert not list((project / ".work").glob("train-*"))


def test_two_processes_share_the_training_and_survive_kill_9(project: Path) -> None:
    params = project / "params.yaml"
    text = params.read_text().replace("processes: 1", "processes: 2").replace(" epochs: 12", " epochs: 4")
    params.write_text(text)
    rerun = ["repro", "--force", "--no-run-cache", "--single-item", "train@synthetic"]
    try:
        assert "steps on 2 x cpu" in dvc(project, *rerun)
        expected = hashlib.sha256((project / MODEL).read_bytes()).hexdigest()
        with started(project, rerun) as run:
            wait_for(lambda: list((project / ".work").glob("train-*/checkpoint.pt")))
            os.kill(find_training(project, run), signal.SIGKILL)
            run.wait()
        assert "resume at step" in dvc(project, *rerun)
        assert hashlib.sha256((project / MODEL).read_bytes()).hexdigest() == expected
        assert not list((project / ".work").glob("train-*"))
    finally:
        git(project, "checkout", ".")
        dvc(project, "checkout")


def started(project: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    return subprocess.Popen(
        ["dvc", *arguments],
        cwd=project,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def find_dvc(project: Path, run: subprocess.Popen[bytes]) -> int:
    return run.pid


def find_training(project: Path, run: subprocess.Popen[bytes]) -> int:
    """The process id of `dgrl train` in this project, 0 if there is none."""
    for process in processes():
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"train" in words and (process / "cwd").readlink() == project:
                return int(process.name)
        except OSError:
            continue  # it has ended meanwhile
    return 0


def processes() -> Iterator[Path]:
    return (path for path in Path("/proc").iterdir() if path.name.isdigit())


def test_without_epochs_another_runs_network_is_evaluated(project: Path) -> None:
    shutil.copy(project / MODEL, project / "start.safetensors")
    settings = ["-S", "train.epochs=0", "-S", "model.weights=start.safetensors"]
    before = json.loads((project / "data/synthetic/eval/metrics.json").read_text())["synthetic"]
    assert stages_run(dvc(project, "exp", "run", *settings)) == ["train@synthetic", "evaluate@synthetic"]
    after = json.loads((project / "data/synthetic/eval/metrics.json").read_text())["synthetic"]
    assert after["options"] != before["options"]
    assert {**after, "options": {}} == {**before, "options": {}}
    git(project, "checkout", ".")
    dvc(project, "checkout")


def test_an_experiment_reruns_what_it_changes(project: Path) -> None:
    output = dvc(project, "exp", "run", "-S", "loss.gamma=1")
    assert stages_run(output) == ["train@synthetic", "evaluate@synthetic"]
    assert "synthetic.rank1" in dvc(project, "metrics", "diff")
    assert "loss.gamma" in dvc(project, "params", "diff")
    shown = json.loads(dvc(project, "plots", "diff", "--json"))
    assert any("cmc.csv" in name or "CMC" in name for name in shown["data"])


def test_a_mistake_in_params_stops_dvc_with_one_line(project: Path) -> None:
    params = project / "params.yaml"
    text = params.read_text()
    try:
        params.write_text(text.replace("persons_per_batch: 4", "persons_per_batch: 400"))
        output = dvc(project, "repro", check=False)
    finally:
        params.write_text(text)
    assert "error: train.persons_per_batch = 400, but synthetic has only 8 training persons" in output
    assert "Traceback" not in output
