"""The report: whole, self-contained, escaped, and it shows what it was given."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from small_report import example, noise, small_plot, small_report

from dgrl.images import decode
from dgrl.model.inputs import normalise
from dgrl.model.network import DGRL
from dgrl.model.params import ModelParams
from dgrl.report.activation import activation_maps, overlay
from dgrl.report.plots import Series, plot
from dgrl.report.render import PANEL_SIDE, SIDE, render
from dgrl.report.restoration import restoration
from dgrl.report.sheets import write_sheets

VOID = {"meta", "img", "br", "link", "input"}  # HTML elements without an end tag; SVG's are written <path/>


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in its order."""

    def __init__(self, text):
        super().__init__()
        self.open: list[str] = []
        self.tags, self.texts, self.cells = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def text():
    return render(small_report())


def test_shows_metrics_options_and_where_it_comes_from(text):
    page = Page(text)
    assert page.cells == [
        *["Rank-1", "Rank-5", "Rank-10", "mAP"],
        *["single-shot", "45.9", "73.7", "83.9", "51.2"],
        *["DGRL (paper)", "45.9", "73.7", "83.9", "n/a"],
        *["queries", "Rank-1", "Rank-5", "Rank-10", "mAP"],
        *["x2", "658", "48.0", "70.0", "80.0", "50.0"],
        *["x3", "658", "44.0", "68.0", "79.0", "49.0"],
        *["queries", "gallery", "Rank-1", "Rank-5", "Rank-10", "mAP"],
        *["camera_entrance to camera_platform_2", "1,316", "316", "46.0", "71.0", "80.0", "50.0"],
        *["commit", "0123456789abcdef0123456789abcdef01234567", "SHA-256 of the network", "ab" * 32],
        *["loss.gamma", "5.0", "mlr.factors", "2 3 4"],
        *["rank1", "45.94", "queries", "1316", "multi_shot.rank1", "60.06"],
    ]


def test_a_ranked_list_tells_right_from_wrong_by_mark_by_frame_and_in_words(text):
    page = Page(text)
    kinds = [figure.get("class") for figure in page.all("figure")]
    assert (kinds.count("right"), kinds.count("wrong")) == (6, 14)
    assert {"1 ✗", "3 ✓"} <= set(page.texts)
    alts = [image["alt"] for image in page.all("img")]
    assert "Match 3, right: person 2, cam_b" in alts
    assert "Query as captured: person 7, cam_a, factor 2, 24 by 64 pixels" in alts
    assert "Activation map of: Match 3, right: person 2, cam_b" in alts


def test_needs_nothing_from_outside(text):
    without_data = re.sub(r'(src|href)="(data:[a-z+/]+;base64,[A-Za-z0-9+/=]+|data:,|#[\w-]+)"', "", text)
    without_comments = re.sub(r"^\s*//.*", "", without_data, flags=re.MULTILINE)
    assert not re.search(r"src=|href=|https?:|//|@import|url\((?!#)", without_comments)
    assert "default-src 'none'" in text


def test_images_are_shrunk_never_enlarged(text):
    sources = [image["src"] for image in Page(text).all("img")]
    shapes = [decode(base64.b64decode(source.partition(",")[2]), "image").shape for source in sources]
    assert shapes[0] == (64, 24, 3)
    assert shapes[3] == (SIDE, SIDE // 2, 3)  # of 256 x 128 pixels
    assert max(height for height, _, _ in shapes) <= PANEL_SIDE
    captured = decode(base64.b64decode(sources[0].partition(",")[2]), "image")
    np.testing.assert_array_equal(captured, noise(64, 24))


def test_escapes_everything():
    evil = '"><script>alert(1)</script>&$title'
    table = pd.DataFrame([[1.0]], [evil], [evil])
    panels = restoration(noise(8, 4), noise(16, 8), noise(16, 8), 2, evil)
    page = render(
        small_report(
            title=evil,
            summary=evil,
            headline=table,
            notes=[evil],
            tables={evil: table},
            plots=[replace(small_plot(), title=evil, alt=evil)],
            examples={evil: [example(evil)]},
            restorations=[(evil, panels)],
            options={evil: evil},
            origin={evil: evil},
        )
    )
    assert page.count("<script") == 1
    assert Page(page).texts.count(evil) >= 8


def test_wide_content_scrolls_by_keyboard_too(text):
    scrolling = [part for part in Page(text).all("div") if part.get("class") == "scroll"]
    assert len(scrolling) == 3
    assert all(part["tabindex"] == "0" and part["aria-label"] for part in scrolling)


def test_parts_without_content_are_left_out():
    empty: dict[str, Any] = {"plots": [], "tables": {}, "examples": {}, "restorations": []}
    page = Page(render(small_report(**empty)))
    assert not page.all("img")
    assert not page.all("figure")
    links = [link["href"] for link in page.all("a")]
    assert links == ["#results", "#run"]
    bare = Page(render(small_report(**empty, metrics={}, options={}, origin={})))
    assert [link["href"] for link in bare.all("a")] == ["#results"]
    assert not bare.all("details")


def test_ids_are_unique_and_links_lead_to_them(text):
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        target = attributes.get("xlink:href") or attributes.get("href", "")
        assert not target.startswith("#") or target[1:] in ids


def test_the_same_report_gives_the_same_bytes(text):
    assert render(small_report()) == text


def test_downloads_are_the_plots_as_csv_and_svg(text):
    links = {link["download"]: link["href"] for link in Page(text).all("a") if "download" in link}
    assert set(links) == {f"{name}.{end}" for name in ("cmc", "losses", "rcan") for end in ("csv", "svg")}
    csv, svg = (base64.b64decode(links[f"cmc.{end}"].partition(",")[2]).decode() for end in ("csv", "svg"))
    table = pd.read_csv(io.StringIO(csv))
    assert table["queries found, %"].tolist() == [45.9, 60.0, 73.7, 50.0]
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_curve_of_one_point_is_a_mark_and_others_have_none():
    """A line through one point has no length."""
    mark = re.compile(r"<use [^>]*fill: #2563eb")
    for points, marks in (([4], True), ([4, 5], False)):
        svg = plot("p", "t", "a", [Series("s", points, [1.0] * len(points))], "x", "y").svg
        assert bool(mark.search(svg)) == marks


def test_a_plot_is_drawn_to_scale():
    line = r'<path d="(M [^"]+)" clip-path="[^"]+" style="fill: none; stroke: #2563eb'
    (path,) = re.findall(line, small_plot().svg)
    points = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), float)
    heights = -points[:, 1]  # y grows downwards
    assert (heights[1] - heights[0]) / (heights[2] - heights[0]) == pytest.approx(14.1 / 27.8, abs=1e-3)


# Super-resolution


def test_panels_have_the_psnr_against_the_original():
    captured, fed, original = noise(32, 16), noise(64, 32), noise(65, 33)[:64, :32]
    lr, bicubic, sr, hr = restoration(captured, fed, original, 2, "rcan")
    assert [each.title for each in (lr, bicubic, sr, hr)] == ["LR", "bicubic", "SR, RCAN", "HR"]
    assert lr.psnr is None
    assert hr.psnr is None
    error = np.mean((fed.astype(float) - original) ** 2)
    assert sr.psnr == pytest.approx(10 * np.log10(255**2 / error))
    enlarged = cv2.resize(captured, (32, 64), interpolation=cv2.INTER_CUBIC)
    error = np.mean((enlarged.astype(float) - original) ** 2)
    assert bicubic.psnr == pytest.approx(10 * np.log10(255**2 / error))


@pytest.mark.parametrize(("method", "side"), [("bicubic", 2), ("none", 1)])
def test_no_panel_shows_the_same_twice(method, side):
    panels = restoration(noise(32, 16), noise(32 * side, 16 * side), noise(65, 33), 2, method)
    assert [each.title for each in panels] == ["LR", "bicubic", "HR"]
    assert panels[2].image.shape == (64, 32, 3)


# Activation maps


def test_an_activation_map_is_the_energy_of_the_last_feature_map():
    params = ModelParams(backbone="resnet18", weights="none", height=64, width=32, dimension=16, groups=4)
    model = DGRL(params, persons=2).eval()
    images = torch.from_numpy(np.stack([noise(64, 32), noise(64, 32)[::-1]])).permute(0, 3, 1, 2)
    maps = activation_maps(model, images, "sr")
    assert maps.shape == (2, 4, 2)
    with torch.inference_mode():
        x = normalise(images[1:])
        for part in (model.stems["sr"], model.layer1, model.layer2, model.layer3, model.layer4):
            x = part(x)
    energy = (x[0].numpy().astype(float) ** 2).sum(axis=0)
    np.testing.assert_allclose(maps[1], (energy - energy.min()) / np.ptp(energy), atol=1e-4)


def test_an_overlay_is_red_where_the_map_is_high():
    gray = np.full((64, 32, 3), 128, np.uint8)
    energy = np.array([[0, 0], [1, 1]], np.float32)
    shown = overlay(gray, energy).astype(int)
    assert shown.shape == gray.shape
    assert shown[-1, 0, 0] > shown[-1, 0, 2]
    assert shown[0, 0, 0] < shown[-1, 0, 0]


# Sheets


def test_a_sheet_frames_the_right_person_green_and_the_wrong_one_red(tmp_path):
    shown = example()
    few = replace(shown, matches=[replace(shown.matches[2], image=noise(40, 20)), shown.matches[0]])
    write_sheets(tmp_path / "ranked", {"c1/0007.png": few, "c1_0007.png": few})
    first, second = sorted((tmp_path / "ranked").iterdir())  # two ids, two files
    assert first.read_bytes() == second.read_bytes()
    sheet = decode(first.read_bytes(), "sheet")
    red, green, _ = sheet[0].astype(int).T  # along the upper edge: three frames of one width
    width = sheet.shape[1] // 3
    np.testing.assert_array_equal(
        np.repeat([0, 1, -1], width), np.sign((green - red) * (abs(green - red) > 50))
    )
    assert image_in(sheet[:, width : 2 * width], noise(40, 20))


def image_in(cell, wanted):
    windows = np.lib.stride_tricks.sliding_window_view(cell, wanted.shape)[:, :, 0]
    return (windows == wanted).all(axis=(2, 3, 4)).any()


def test_a_sheet_shows_few_matches_and_is_small(tmp_path):
    write_sheets(tmp_path, {"q": example()})
    assert (tmp_path / "q.png").stat().st_size < 120_000  # of noise, which no PNG compresses


def test_without_examples_there_is_an_empty_folder(tmp_path):
    write_sheets(tmp_path / "ranked", {})
    assert not list((tmp_path / "ranked").iterdir())
