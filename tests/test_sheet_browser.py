"""The contact sheet of a search in headless Chromium, narrow and wide."""

from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from small_images import smooth_image

from dgrl.images import encode_png
from dgrl.search.answers import Answer, Match
from dgrl.search.sheet import render_sheet

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt install chromium)")

LONG = "a/very/long/folder/" + "without_a_break" * 12 + "#0001_c1_01"
OUTSIDE = """[...document.querySelectorAll("body *")]
  .map(each => [each.getBoundingClientRect(), each.outerHTML.slice(0, 90)])
  .filter(([box]) => box.left < 0 || box.right > innerWidth).map(([, text]) => text)"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two queries with ten matches each: of all shapes, known, unknown, and gone."""
    answers = []
    for query in range(2):
        matches = []
        for rank in range(10):
            image = smooth_image("sheet", query, rank, width=16 + 24 * rank, height=96)
            data = None if rank == 4 else encode_png(image)
            answer = "unknown" if rank > 5 else "same person 0.93"
            matches.append(Match(LONG if rank == 2 else f"{rank}.png", "0001, c1", 0.9, answer, data))
        answers.append(Answer(f"{LONG}{query}", "low-resolution", encode_png(smooth_image("q")), matches))
    file = tmp_path_factory.mktemp("sheet") / "sheet.html"
    file.write_text(render_sheet("2 queries in people", "note", answers), encoding="utf-8")
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_ten_matches_are_seen_and_nothing_is_fetched(
    browser: Browser, page: Path, width: int, scheme: str
) -> None:
    browser.open(page, width, scheme)
    assert browser.problems() == []
    assert browser.requests() == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(OUTSIDE) == []
    assert browser.evaluate("document.querySelectorAll('figure').length") == 2 * (1 + 10)
    assert browser.evaluate("document.querySelectorAll('.gone').length") == 2
    assert browser.evaluate("[...document.images].every(each => each.complete && each.naturalWidth)")
