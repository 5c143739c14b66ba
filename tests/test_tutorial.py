"""docs/tutorial.md, followed literally: from an empty folder, with the wheel installed, to a report."""

import os
import re
import sys
from pathlib import Path

import pytest
from checkout import COMMITTER, ROOT, call

pytestmark = pytest.mark.slow

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables with which the wheel, and not the checkout, is what ``dgrl`` and ``import dgrl`` find."""
    wheels, installed = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    call([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT)])
    (wheel,) = wheels.glob("*.whl")
    call([*pip, "install", "--no-deps", "--target", str(installed), str(wheel)])
    path = os.pathsep.join([str(installed / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"} | COMMITTER


def test_the_tutorial_leads_to_a_report(tmp_path: Path, environment: dict[str, str]) -> None:
    text = (ROOT / "docs/tutorial.md").read_text()
    scripts = [body for kind, body in BLOCK.findall(text) if kind == "sh"]
    (expected,) = (body for kind, body in BLOCK.findall(text) if kind == "text")
    said = call(["bash", "-e", "-c", "\n".join(scripts)], tmp_path, environment)
    project = tmp_path / "shop"
    assert expected in said
    assert "<html" in (project / "data/shop/eval/report.html").read_text()
    assert "shop: 40 images of 10 persons, 2 cameras; 5 persons train" in said
    assert "evaluate.flip=true" in said
    assert re.search(
        r"^epoch 50: loss \d+\.\d+, \d+ images/s$", said, re.MULTILINE
    )  # a line an epoch, unpadded
    assert said.count("images/yard/p") >= 3  # what the search found
    assert "all 10 persons train" in said
    code = "import dgrl, sys; sys.exit(not dgrl.__file__.startswith(sys.argv[1]))"
    call([sys.executable, "-c", code, environment["PYTHONPATH"]], project, environment)
    digest = (project / "data/shop/inputs/code/split.txt").read_text()
    assert "pipeline/split.py" in digest
    assert "dgrl/mlr/protocol.py" in digest
