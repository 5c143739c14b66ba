"""The package: what it brings, what it asks for, and that it imports where a system lacks something."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from pipeline.init import PROJECT

ROOT = Path(__file__).parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_projects_files_are_the_checkouts() -> None:
    for name, packaged in (("dvc.yaml", "stages.yaml"), ("params.yaml", "params.yaml")):
        assert (PROJECT / packaged).read_text() == (ROOT / name).read_text()
    presets = [
        {file.name: file.read_text() for file in folder.glob("*")}
        for folder in (PROJECT / "presets", ROOT / "presets")
    ]
    assert presets[0] == presets[1]
    patterns = DECLARED["tool"]["setuptools"]["package-data"]["pipeline"]
    found = {file for pattern in patterns for file in PROJECT.parent.glob(pattern)}
    assert found == set(PROJECT.rglob("*.yaml")) | set(PROJECT.glob("presets/*.yaml"))


def test_ray_and_development_tools_are_extras() -> None:
    default = " ".join(DECLARED["project"]["dependencies"])
    for name in ("ray", "pytest", "mypy", "ruff", "hypothesis"):
        assert f"{name}>" not in default
        assert any(
            name in extra
            for group in DECLARED["project"]["optional-dependencies"].values()
            for extra in group
        )


WITHOUT_LOCKS = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "fcntl" else find(name, package)
sys.modules["fcntl"] = None
"""


@pytest.mark.parametrize(
    "program",
    [
        "import dgrl; dgrl.Embedder",
        "import pipeline.cli, pipeline.download, pipeline.params, pipeline.work",
        "import pipeline.__main__; sys.argv = ['dgrl', '--help']; pipeline.__main__.main()",
    ],
)
def test_what_needs_no_file_locks_works_without_them(program: str) -> None:
    """Windows has no fcntl."""
    subprocess.run([sys.executable, "-c", WITHOUT_LOCKS + program], check=True, cwd=ROOT)


def test_ci_runs_the_supported_versions_of_python() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert DECLARED["project"]["requires-python"] == ">=3.11,<3.13"


def locked(name: str) -> dict[str, tuple[str, int]]:
    """The version of each package of a lock, by its normalised name, and how many files it allows."""
    blocks = re.split(r"(?m)^(?=\w)", (ROOT / name).read_text())[1:]
    found = [(re.match(r"([\w.-]+)==(\S+)", block), block.count("--hash=sha256:")) for block in blocks]
    return {normal(match[1]): (match[2], count) for match, count in found if match}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(("name", "extra"), [("requirements.lock", None), ("requirements-dev.lock", "dev")])
def test_a_lock_has_the_pinned_versions_of_what_is_asked_for(name: str, extra: str | None) -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    pins = {normal(pin): version for pin, _, version in (line.partition("==") for line in lines)}
    lock = locked(name)
    assert all(count for _, count in lock.values())
    assert {each: version for each, (version, _) in lock.items() if pins.get(each, version) != version} == {}
    asked = list(DECLARED["project"]["dependencies"])
    if extra:
        asked += [each for each in DECLARED["project"]["optional-dependencies"][extra] if "dgrl[" not in each]
    assert {normal(re.split(r"[<>=\[]", each)[0]) for each in asked} <= set(lock)
