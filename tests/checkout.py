"""A fresh clone of the project with tiny params, and a shell in which the documentation's commands run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
TINY: dict[str, dict[str, Any]] = {  # sizes only
    "rcan": {
        "scales": [2],
        "features": 16,
        "groups": 1,
        "blocks": 1,
        "iterations": 2,
        "batch": 2,
        "patch": 12,
        "milestones": [0.6, 0.8, 0.9],
        "warmup": 1,
    },
    "model": {"height": 48, "width": 32, "dimension": 16, "groups": 2, "group_hidden": 8},
    "train": {"persons_per_batch": 4, "epochs": 1, "learning_rate": 0.002},
    "evaluate": {"examples": 2, "untrained": False},
    "runtime": {"workers": 1},
}
_SMALL_SET = {"kind": "synthetic", "images_per_camera": 1, "width": 24, "height": 48, "seed": 0}
_PERSONS = {"synthetic": 16, "viper": 80, "caviar": 80}
_MARK = "@@@"


COMMITTER = {
    f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}


def call(words: list[str], folder: Path = ROOT, environment: Mapping[str, str] | None = None) -> str:
    """What a command says, with what it logs."""
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@dataclass(frozen=True)
class Checkout:
    """A folder with the project, and the variables with which ``dgrl`` is that folder's."""

    folder: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        settings = {"HOME": str(self.home), "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        return os.environ | COMMITTER | settings | {"BROWSER": "true", "COLUMNS": "80"}

    def run(self, lines: Iterable[str]) -> list[str]:
        """Run command lines in one shell, until one fails; returns what each said."""
        script = "".join(f"echo {_MARK}\n{line} || exit 1\n" for line in lines)
        said = call(["bash", "-c", script], self.folder, self.environment)
        return said.split(f"{_MARK}\n")[1:]

    def python(self, program: str) -> str:
        """Run a program; returns what it said."""
        return call([sys.executable, "-c", program], self.folder, self.environment)

    def copy(self, folder: Path) -> "Checkout":
        """The same in another folder, with results and caches."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Checkout(folder, self.home)


def clone(folder: Path, home: Path) -> Checkout:
    """Clone the project, with the edits that are in no commit yet, and commit tiny params."""
    _git("clone", "--quiet", str(ROOT), str(folder))
    _git("remote", "remove", "origin", folder=folder)  # no test pushes to where it came from
    edited = _git("diff", "--name-only", "HEAD", folder=ROOT)
    for name in (edited + _git("ls-files", "--others", "--exclude-standard", folder=ROOT)).splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    _link_environment(folder / ".venv")
    shrink(folder / "params.yaml")
    checkout = Checkout(folder, home)
    checkout.run(["git add --all", "git commit --quiet --message 'Tiny params'"])
    return checkout


def shrink(file: Path) -> None:
    """Have params.yaml ask for tiny networks, and for drawn sets in place of all that would be fetched."""
    params = yaml.safe_load(file.read_text())
    for section, values in TINY.items():
        params[section] |= values
    params["mlr"]["factors"] = [2]
    params["mlr"]["lr_camera"] |= {"viper": "c1", "caviar": "c1"}
    drawn = {name: _SMALL_SET | {"persons": persons, "cameras": 4} for name, persons in _PERSONS.items()}
    params["source"] |= drawn
    params["source"]["pool"]["sets"] = {"one": drawn["synthetic"], "two": drawn["synthetic"] | {"seed": 1}}
    file.write_text(yaml.safe_dump(params, sort_keys=False))


def _link_environment(folder: Path) -> None:
    """The environment of the tests as one that ``make install`` has just made."""
    folder.mkdir()
    for name in ("bin", "lib", "lib64", "pyvenv.cfg"):
        if (source := Path(sys.prefix, name)).exists():
            (folder / name).symlink_to(source)
    for name in ("installed", "installed-dev"):
        (folder / name).touch()


def _git(*words: str, folder: Path | None = None) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def set_params(checkout: Checkout, values: Mapping[str, Any]) -> None:
    """Replace top-level values of params.yaml."""
    file = checkout.folder / "params.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | values, sort_keys=False))


if __name__ == "__main__":
    shrink(Path("params.yaml"))
