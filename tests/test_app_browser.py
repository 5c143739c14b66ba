"""dgrl app as people use it: an image is dropped in headless Chromium, narrow and wide, light and dark."""

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser

pytest.importorskip("faiss")
pytest.importorskip("uvicorn")

from small_app import decoded, make_index, person, serving

from dgrl.images import encode_png
from dgrl.model.network import DGRL
from dgrl.model.params import ModelParams
from dgrl.weights.published import load_model, save_model

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt install chromium)")

SCREENSHOTS = os.environ.get("DGRL_SCREENSHOTS")  # a folder to keep them in
PARAMS = ModelParams(backbone="resnet18", weights="none", height=64, width=32, dimension=16, groups=4)
STATUS = "document.querySelector('#status').textContent"
MATCHES = "document.querySelectorAll('#found section:last-child figure').length"
SOURCES = "[...document.images].map(each => each.src)"
OUTLINED = """[document.activeElement, document.activeElement.closest("label")]
  .some(each => getComputedStyle(each).outlineStyle !== "none")"""
OUTSIDE = """[...document.querySelectorAll("body *")].filter(each => each.checkVisibility())
  .map(each => [each.getBoundingClientRect(), each.outerHTML.slice(0, 90)])
  .filter(([box]) => box.left < 0 || box.right > innerWidth).map(([, text]) => text)"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights, an index of it, a query, and a file that is no whole image."""
    folder = tmp_path_factory.mktemp("app")
    torch.manual_seed(0)
    save_model(folder / "model.safetensors", DGRL(PARAMS, persons=3), PARAMS, 3)
    make_index(folder, str(folder / "model.safetensors"))
    (folder / "query.png").write_bytes(encode_png(person(5, factor=4)))
    (folder / "cut.png").write_bytes(encode_png(person(5))[:-100])
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serving(folder / "people") as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_an_image_is_dropped_and_ten_matches_appear(
    browser: Browser, folder: Path, address: str, width: int, scheme: str
) -> None:
    browser.open(address, width, scheme)
    browser.drop(folder / "query.png")
    browser.wait_for(f"{MATCHES} === 10")
    if SCREENSHOTS:
        browser.screenshot(Path(SCREENSHOTS, f"app-{width}-{scheme}.png"))
    assert browser.evaluate(STATUS) == ""
    assert browser.problems() == []
    assert set(browser.requests()) == {address, f"{address}search"}
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(OUTSIDE) == []
    assert browser.evaluate("[...document.images].every(each => each.complete && each.naturalWidth)")
    assert browser.evaluate("[...document.images].every(each => each.alt.length > 5)")


def test_the_maps_are_where_the_last_layer_responds(browser: Browser, folder: Path, address: str) -> None:
    browser.open(address, 390)
    browser.drop(folder / "query.png")
    browser.wait_for(f"{MATCHES} === 10")
    plain = browser.evaluate(SOURCES)
    browser.evaluate("document.querySelector('[type=checkbox]').click()")
    browser.wait_for("document.images.length === 13")
    mapped = browser.evaluate(SOURCES)
    assert mapped[:2] == plain[:2]
    assert all(before != after for before, after in zip(plain[2:], mapped[3:], strict=True))
    restored, shown = decoded(mapped[1]), decoded(mapped[2])
    colours = 2 * shown.astype(int) - restored  # what half of which lies over the image
    red = colours[..., 0] - colours[..., 2]
    energy = _energy(folder, restored)
    assert np.corrcoef(red.ravel(), cv2.resize(energy, red.shape[::-1]).ravel())[0, 1] > 0.7
    browser.evaluate("document.querySelector('[type=checkbox]').click()")
    browser.wait_for("document.images.length === 12")
    assert browser.evaluate(SOURCES) == plain
    assert browser.problems() == []


def _energy(folder: Path, image: np.ndarray) -> np.ndarray:
    """The last layer's squares, computed step by step: [h, w]."""
    model, _ = load_model(folder / "model.safetensors")
    seen = []
    model.layer4.register_forward_hook(lambda module, inputs, output: seen.append(output))
    pixels = cv2.resize(image, (32, 64), interpolation=cv2.INTER_CUBIC).astype(np.float32) / 255
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    batch = torch.from_numpy(((pixels - mean) / deviation).astype(np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        model.embed(batch, "sr")
    return seen[0][0].square().sum(0).numpy()


def test_what_cannot_be_read_is_said_in_a_line_and_the_next_one_is_found(
    browser: Browser, folder: Path, address: str
) -> None:
    browser.open(address, 390)
    browser.drop(folder / "cut.png")
    browser.wait_for(f"{STATUS}.startsWith('this file is not a readable image')")
    assert browser.evaluate("document.images.length") == 0
    browser.drop(folder / "query.png")
    browser.wait_for(f"{MATCHES} === 10")
    assert browser.evaluate(STATUS) == ""


def test_without_the_server_the_page_says_so(browser: Browser, folder: Path) -> None:
    with serving(folder / "people") as port:
        browser.open(f"http://127.0.0.1:{port}/", 390)
    browser.drop(folder / "query.png")
    browser.wait_for(f"{STATUS}.includes('dgrl app has ended')")


def test_a_keyboard_is_enough(browser: Browser, address: str) -> None:
    browser.open(address, 390)
    reached = []
    for _ in range(2):
        browser.press_tab()
        reached.append(browser.evaluate("document.activeElement.type"))
        assert browser.evaluate(OUTLINED)
    assert reached == ["file", "checkbox"]
    assert browser.evaluate("[...document.querySelectorAll('input')].every(each => each.labels.length)")
