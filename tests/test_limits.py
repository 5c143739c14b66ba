"""Inputs over a limit: one line with the file, its size, the limit and the param, which raises it."""

import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from dgrl.datasets.catalog import KINDS
from dgrl.errors import InputError
from dgrl.limits import Limits, limits, use
from dgrl.tables import read_rows
from pipeline.cli import main
from pipeline.download import download
from pipeline.params import load_params

PARAMS = Path(__file__).parents[1] / "params.yaml"
PATTERN = r"(?P<person_id>\d)_(?P<camera_id>\d)\.png"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with four images of 40 x 20 pixels."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(PARAMS, "params.yaml")
    Path("own").mkdir()
    for name in ("1_1", "1_2", "2_1", "2_2"):
        cv2.imwrite(f"own/{name}.png", np.zeros((20, 40, 3), np.uint8))
    change(datasets=["folder"], folder={"root": "own", "pattern": PATTERN})
    before = limits()
    yield tmp_path
    use(before)


def change(**changes: Any) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["source"]["folder"] |= changes.pop("folder", {})
    params["limits"] |= changes.pop("limits", {})
    Path("params.yaml").write_text(yaml.safe_dump(params | changes))


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The line on standard error of a command that fails; empty if it succeeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dgrl", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == bool(ended.value.code)
    return "".join(lines)


def as_is() -> None:
    pass


def zipped() -> None:
    with zipfile.ZipFile("own.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in Path("own").iterdir():
            archive.writestr(path.name, path.read_bytes() + bytes(9000))
    change(folder={"root": "own.zip"})


def with_table() -> None:
    rows = [f"{path.name},{path.name[0]},{path.name[2]}" for path in sorted(Path("own").iterdir())]
    Path("own.csv").write_text("\n".join(["path,person_id,camera_id", *rows]))
    change(folder={"table": "own.csv", "pattern": None})


def with_parquet() -> None:
    with_table()
    from pyarrow import csv

    pq.write_table(csv.read_csv("own.csv"), "own.parquet")
    change(folder={"table": "own.parquet"})


@pytest.mark.parametrize(
    ("prepare", "limit", "enough", "said"),
    [
        (as_is, "image_pixels", 800, "own: 1_1.png has 40x20 pixels, over the limit of 799; "),
        (as_is, "file_bytes", 10_000, "own: 1_1.png has "),
        (zipped, "file_bytes", 10_000, "own.zip: 1_1.png has "),
        (zipped, "zip_ratio", 1000, "own.zip: 1_1.png unpacks from "),
        (with_table, "table_rows", 4, "own.csv has 4 rows or more, more than the limit of 3; "),
        (with_parquet, "table_rows", 4, "own.parquet has 4 rows or more, more than the limit of 3; "),
    ],
)
def test_what_is_over_a_limit_is_named_with_the_param_that_raises_it(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    prepare: Callable[[], None],
    limit: str,
    enough: int,
    said: str,
) -> None:
    prepare()
    change(limits={limit: enough - 1 if enough < 1000 else 20})
    line = run(capsys, "download", "folder")
    assert line.startswith(f"error: {said}")
    assert f"raise limits.{limit}" in line
    assert not Path("data").exists() or not list(Path("data").rglob("*.parquet"))
    change(limits={limit: enough})
    assert run(capsys, "download", "folder") == ""


def test_an_image_of_a_table_may_be_as_large_as_the_table_says(project: Path) -> None:
    """The limit is that of what comes in; the later stages need not be told of a higher one."""
    download("folder", load_params())
    use(Limits(image_pixels=10))
    rows = list(read_rows(Path("data/folder/images")))
    assert rows[0].pixels().shape == (20, 40, 3)
    with pytest.raises(InputError, match="over the limit of 799"):
        replace(rows[0], width=1, height=799).pixels()


def test_limits_are_those_of_every_thread_of_the_process(project: Path) -> None:
    change(limits={"image_pixels": 799})
    load_params()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(limits).result().image_pixels == 799


def test_images_and_official_splits_are_published_together(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> list[list[str]]:
        raise InputError("testsets is damaged")

    monkeypatch.setitem(KINDS, "folder", replace(KINDS["folder"], splits=lambda *_: [["1"]]))
    download("folder", load_params())
    before = {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}
    assert sorted(path.name for path in before) == ["part-00000.parquet", "splits.json"]
    Path("own/1_1.png").unlink()
    monkeypatch.setitem(KINDS, "folder", replace(KINDS["folder"], splits=damaged))
    with pytest.raises(InputError, match="testsets"):
        download("folder", load_params())
    assert {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()} == before
