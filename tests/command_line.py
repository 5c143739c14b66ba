"""The `dgrl` command in a tiny project, as a person runs it."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import main

ROOT = Path(__file__).parents[1]

Command = Callable[..., tuple[int, str]]


def change(section: str, **values: Any) -> None:
    """Edit params.yaml of the project in the working directory."""
    file = Path("params.yaml")
    params = yaml.safe_load(file.read_text())
    params[section] |= values
    file.write_text(yaml.safe_dump(params))


def files(folder: Path = Path("data")) -> dict[str, bytes]:
    return {path.as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leftovers() -> list[Path]:
    return [path for path in Path().rglob(".*") if path.suffix == ".tmp"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with presets and the parameters of a tiny synthetic set."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "presets", "presets")
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    small = {"persons": 8, "cameras": 4, "images_per_camera": 1, "width": 16, "height": 32}
    change("source", synthetic={"kind": "synthetic"} | small)
    return tmp_path


@pytest.fixture
def dgrl(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in the project: its exit status and what it said."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dgrl", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), "".join(capsys.readouterr())

    return run


def mistake(dgrl: Command, *arguments: str) -> str:
    """The one line that the mistake ends in; nothing that was there has changed."""
    before = files(Path())
    status, said = dgrl(*arguments)
    assert status == 1
    assert said.startswith("error: ")
    assert said.endswith("\n")
    assert said.count("\n") == 1
    assert files(Path()) == before
    assert not leftovers()
    return said
