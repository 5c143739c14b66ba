"""dgrl report: a copy of a report for others."""

from pathlib import Path

import pytest
from small_report import small_report
from typer.testing import CliRunner

from dgrl.report.render import render
from dgrl.search.blur import blur_faces
from pipeline.cli import app

REPORT = Path("data/synthetic/eval/report.html")


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["report", "synthetic", *arguments])
    return "" if done.exit_code == 0 else str(done.exception)


def test_a_copy_as_it_is_or_with_faces_blurred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("--out", "shared.html") == f"{REPORT} does not exist; run the stage evaluate first"
    REPORT.parent.mkdir(parents=True)
    page = render(small_report())
    REPORT.write_text(page, encoding="utf-8")
    assert run("--out", "same.html") == ""
    assert Path("same.html").read_text("utf-8") == page
    assert run("--out", "shared.html", "--blur-faces") == ""
    assert Path("shared.html").read_text("utf-8") == blur_faces(page)
    assert REPORT.read_text("utf-8") == page
