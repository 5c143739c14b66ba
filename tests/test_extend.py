"""docs/extend.md as written: every change applied to a copy of the code, then what stands beneath it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"""^```(?P<kind>python|diff)(?: title="(?P<what>[^"]*)")?\n(?P<text>.*?)^```$""",
    re.MULTILINE | re.DOTALL,
)
SECTIONS = re.split(r"^## ", (ROOT / "docs/extend.md").read_text(), flags=re.MULTILINE)[1:]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "dgrl", folder / "dgrl", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "stills").mkdir()
    for name in ("ann_door_1", "ann_hall_1", "bob_door_1"):
        cv2.imwrite(str(folder / f"stills/{name}.jpg"), np.zeros((8, 4, 3), np.uint8))
    return folder


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.split("\n")[0])
def test_a_thing_is_added_as_the_page_says(copy: Path, section: str) -> None:
    blocks = list(BLOCK.finditer(section))
    assert [block["what"] for block in blocks].count("run") == 1
    for block in blocks:
        if block["kind"] == "diff":
            command = ["git", "apply", "--unidiff-zero", "-"]
            subprocess.run(command, input=block["text"], text=True, cwd=copy, check=True)
        elif block["what"] != "run":
            (copy / block["what"]).write_text(block["text"])
        else:
            environment = os.environ | {"PYTHONPATH": str(copy)}
            subprocess.run([sys.executable, "-c", block["text"]], cwd=copy, env=environment, check=True)


def test_the_page_has_every_thing() -> None:
    titles = [section.split("\n")[0] for section in SECTIONS]
    assert titles == ["A dataset", "A backbone", "A loss", "An SR method", "A metric"]
