"""The report as people see it: in headless Chromium, narrow and wide, light and dark, without a mouse."""

import os
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from small_report import small_report

from dgrl.report.render import render

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt install chromium)")

REPORT = os.environ.get("DGRL_REPORT")  # a run's report.html, to look at it by the same tests
SCREENSHOTS = os.environ.get("DGRL_SCREENSHOTS")  # a folder to keep them in
CONTROLS = "a[href], button, input, summary, [tabindex='0']"
WIDER = """[...document.querySelectorAll("main *")]
  .filter(each => each.checkVisibility() && !each.closest("svg *"))
  .map(each => [each.getBoundingClientRect(), each.outerHTML.slice(0, 90)])
  .filter(([box]) => box.left < 0 || box.right > innerWidth).map(([, text]) => text)"""
HIDDEN = """[...document.querySelectorAll(".scroll")]
  .filter(each => each.scrollWidth > each.clientWidth).map(each => each.ariaLabel)"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if REPORT:
        return Path(REPORT)
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(render(small_report()), encoding="utf-8")
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off_and_nothing_fetched(
    browser: Browser, page: Path, width: int, scheme: str
) -> None:
    browser.open(page, width, scheme)
    browser.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    if SCREENSHOTS:
        browser.screenshot(Path(SCREENSHOTS, f"report-{width}-{scheme}.png"))
    assert browser.problems() == []
    assert browser.requests() == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(WIDER) == []
    assert browser.evaluate(HIDDEN) == []
    assert browser.evaluate("[...document.images].every(each => each.complete && each.naturalWidth)")


def test_the_colours_follow_the_system(browser: Browser, page: Path) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        browser.open(page, 390, scheme)
        paint = "getComputedStyle({}).{}".format
        seen[scheme] = [
            browser.evaluate(paint("document.body", "backgroundColor")),
            browser.evaluate(paint("document.body", "color")),
            browser.evaluate(paint("document.querySelector('svg text')", "fill")),
        ]
    assert all(light != dark for light, dark in zip(*seen.values(), strict=True))
    assert seen["dark"][1] == seen["dark"][2]  # the plots' letters are those of the page


@pytest.mark.parametrize("scripts", [True, False])
def test_all_controls_are_reached_by_keyboard(browser: Browser, page: Path, scripts: bool) -> None:
    browser.open(page, 390, scripts=scripts)
    controls = f"[...document.querySelectorAll({CONTROLS!r})].filter(each => each.checkVisibility())"
    count = browser.evaluate(f"{controls}.length")
    reached = set()
    for _ in range(count):
        browser.press_tab()
        reached.add(browser.evaluate(f"{controls}.indexOf(document.activeElement)"))
    assert reached == set(range(count))


def test_every_image_says_what_is_seen(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    assert browser.evaluate("[...document.images].every(each => each.alt.length > 10)")
    plots = browser.evaluate("[...document.querySelectorAll('[role=img]')].map(each => each.ariaLabel)")
    assert plots
    assert all(len(words.split()) > 4 for words in plots)


def test_images_are_as_small_as_they_are_shown(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    larger = "[...document.images].filter(each => each.naturalHeight > each.clientHeight + 1).length"
    visible = larger.replace(".filter(", ".filter(each => each.checkVisibility()).filter(")
    assert browser.evaluate(visible) == 0


def test_a_switch_shows_the_activation_maps_without_javascript(browser: Browser, page: Path) -> None:
    shown = "[...document.querySelectorAll('img.activation')].map(each => each.checkVisibility())"
    browser.open(page, 390, scripts=False)
    assert not any(browser.evaluate(shown))
    browser.evaluate("document.querySelector('#activations').click()")
    assert all(browser.evaluate(shown))


def test_a_column_sorts_both_ways(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    table = "document.querySelector('#tables table')"
    column = f"[...{table}.tBodies[0].rows].map(row => parseFloat(row.cells[2].textContent))"
    press = f"{table}.tHead.rows[0].cells[2].querySelector('button').click()"
    found = []
    for _ in range(2):
        browser.evaluate(press)
        found.append(browser.evaluate(column))
    assert found == [sorted(found[0], reverse=True), sorted(found[0])]
