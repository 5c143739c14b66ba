"""How the command behaves on a terminal and in a pipe: version, verbosity, help, and what ends up where."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with pipes."""
    code = "from pipeline.__main__ import main; main()"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["source"]["synthetic"] |= {"persons": 8, "width": 24, "height": 48}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(ROOT / "presets", "presets")
    return tmp_path


def test_the_version_is_the_packages() -> None:
    assert run("--version").stdout == f"dgrl {version('dgrl')}\n"


def test_a_log_line_in_a_pipe_is_neither_padded_nor_wrapped(project: Path) -> None:
    assert run("download", "synthetic").returncode == 0
    said = run("split", "synthetic", "--workers", "1")
    assert said.stdout == ""
    counts = "64 images, 8 persons, 4 cameras, 0 left out, 32 train_hr, 32 train_lr, 8 query, 24 gallery"
    assert said.stderr == f"synthetic: {counts}\n"
    assert run("-q", "split", "synthetic", "--workers", "1").stderr == ""


def test_an_error_names_its_stage_behind_options(project: Path) -> None:
    Path("data").write_text("in the way")
    said = run("-v", "download", "synthetic").stderr
    assert said.startswith("error: download: ")
    assert said.count("\n") == 1


def test_help_tells_the_exit_statuses_and_completion_is_there() -> None:
    said = " ".join(run("--help").stdout.split())
    assert "1 a mistake" in said
    assert "--install-completion" in said


def test_help_imports_nothing_that_takes_long() -> None:
    code = (
        "import sys\nfrom pipeline.__main__ import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'pandas', 'pydantic', 'cv2', 'pyarrow', 'torch', 'dvc'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
