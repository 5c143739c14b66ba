"""DVC's page of plots without a network: what docs/report.md says, done literally."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from small_report import noise

from dgrl.images import encode_png

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt install chromium)")

REPOSITORY = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
CURVES = {
    "eval/cmc.csv": "rank,single_shot,multi_shot\n1,40,50\n2,60,70\n",
    "rcan/x2/loss.csv": "iteration,loss\n1,0.2\n2,0.1\n",
    "dgrl/live/plots/metrics/synthetic/loss/total.tsv": "step\ttotal\n10\t9.5\n20\t4.5\n",
}


def run(project: Path, *words: str) -> None:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``dvc plots show`` writes, with the template that the documentation makes."""
    project = tmp_path_factory.mktemp("project")
    run(project, "dvc", "init", "--no-scm")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(REPOSITORY / name, project / name)
    data = project / "data/synthetic"
    for name, text in CURVES.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(text)
    (data / "eval/ranked").mkdir()
    (data / "eval/ranked/0001_c1.png").write_bytes(encode_png(noise(104, 432)))
    document = (REPOSITORY / "docs/report.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    run(project, sys.executable, "-c", block)
    (command,) = re.findall(r"^(dvc config .*)$", document, re.MULTILINE)
    run(project, *command.split())
    run(project, "dvc", "plots", "show", "--out", "plots")
    return project / "plots/index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, page: Path) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.open(page, 1280)
        end = time.monotonic() + 120
        while opened.evaluate("document.querySelectorAll('canvas, .vega-embed svg').length") < 4:
            assert time.monotonic() < end, opened.problems()
            time.sleep(0.1)
        yield opened


def test_the_page_asks_for_nothing(browser: Browser) -> None:
    assert browser.requests() == []
    names = [name for name, _ in browser.events]
    assert "Runtime.exceptionThrown" not in names


def test_the_titles_say_what_is_drawn(page: Path) -> None:
    text = page.read_text()
    for title in ("CMC on synthetic, single-shot", "RCAN x2 on synthetic", "Training on synthetic"):
        assert title in text


def test_the_ranked_lists_are_images(browser: Browser) -> None:
    assert browser.evaluate("[...document.images].map(each => each.naturalWidth)") == [432]
