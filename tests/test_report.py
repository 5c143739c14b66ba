"""The report: whole, self-contained, escaped, and it shows what it was given."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from dgrl.errors import InputError
from dgrl.images import decode, encode_png
from dgrl.random import named_generator
from dgrl.report.render import THUMBNAIL_SIDE, Example, Match, choose_examples, render
from dgrl.report.sheets import write_sheets

VOID = {"meta", "img", "br"}  # HTML elements without an end tag; SVG's are written <line/>
METRICS = {"rank1": 45.94, "mAP": 51.25, "queries": 1316, "multi_shot.rank1": 60.06, "factor 2.rank1": 48.0}
CMC = [45.94, 60.0, 73.7]


def image(height, width):
    return named_generator("test_report", height).integers(0, 256, (height, width, 3)).astype(np.uint8)


def example(caption="person 7, cam_b"):
    matches = [
        Match(encode_png(image(40, 20)), caption, correct=True),
        Match(encode_png(image(256, 128)), "person 9, cam_b", correct=False),
    ]
    return Example(encode_png(image(64, 24)), "person 7, cam_a, factor 2", matches)


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in its order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.cells = [], [], [], []
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


def test_shows_metrics_options_curve_and_captions():
    page = Page(render("MLR-VIPeR", METRICS, CMC, {"loss.gamma": 5.0}, [example()]))
    assert page.texts[0] == "MLR-VIPeR"
    assert page.cells == [
        *["Rank-1", "mAP", "queries"],
        *["all queries", "45.9", "51.2", "1,316", "multi-shot", "60.1", "factor 2", "48.0"],
        *["loss.gamma", "5.0"],
    ]
    assert len(page.all("circle")) == 3
    assert "Rank-3: 73.7 %" in page.texts
    assert {"person 7, cam_a, factor 2", "1 ✓", "person 7, cam_b", "2 ✗", "person 9, cam_b"} <= set(
        page.texts
    )
    assert [figure["class"] for figure in page.all("figure")] == ["query", "right", "wrong"]


def test_curve_is_drawn_to_scale():
    svg_y = [float(dot["cy"]) for dot in Page(render("t", {}, [0, 50, 100], {}, [])).all("circle")]
    assert svg_y[0] - svg_y[1] == pytest.approx(svg_y[1] - svg_y[2], abs=0.11)
    assert svg_y[2] < svg_y[0]  # y grows downwards


def test_needs_nothing_from_outside():
    text = render("MLR-VIPeR", METRICS, CMC, {}, [example()])
    without_images = re.sub(r'src="data:image/png;base64,[A-Za-z0-9+/=]+"', "", text)
    assert not re.search(r"src=|href=|https?:|//|@import|url\(|<script|<link", without_images)


def test_thumbnails_are_the_images_shrunk_never_enlarged():
    sources = [image["src"] for image in Page(render("t", {}, CMC, {}, [example()])).all("img")]
    shown = [decode(base64.b64decode(source.partition(",")[2]), "thumbnail") for source in sources]
    assert [image.shape for image in shown] == [(64, 24, 3), (40, 20, 3), (THUMBNAIL_SIDE, 64, 3)]
    np.testing.assert_array_equal(shown[0], image(64, 24))
    blocks = image(256, 128).reshape(128, 2, 64, 2, 3).mean(axis=(1, 3))  # halving by area is the mean of 2x2
    assert np.abs(shown[2] - blocks).max() <= 0.5


def test_escapes_everything():
    evil = '"><script>alert(1)</script>&$title'
    text = render(evil, {evil: 1.0, f"{evil}.rank1": 2.0}, CMC, {evil: evil}, [example(caption=evil)])
    page = Page(text)
    assert "<script" not in text
    assert page.texts[0] == evil
    assert page.cells.count(evil) == 4  # metric, row of the table, option and its value
    assert page.all("img")[1]["alt"] == evil


def test_wide_content_scrolls_by_keyboard_too():
    page = Page(render("t", METRICS, CMC, {"a": 1}, [example()]))
    scrolling = [part for part in page.all("div") if "scroll" in part["class"].split()]
    assert len(scrolling) == 3  # metrics, ranked list, options
    assert all(part["tabindex"] == "0" and part["aria-label"] for part in scrolling)


def test_without_examples_there_is_no_gallery():
    page = Page(render("t", METRICS, [50.0], {}, []))
    assert not page.all("img")
    assert not any("nearest" in text for text in page.texts)


def test_is_a_pure_function():
    assert render("t", METRICS, CMC, {}, [example()]) == render("t", METRICS, CMC, {}, [example()])


@pytest.mark.parametrize("cmc", [[], [10.0, float("nan")]])
def test_refuses_a_curve_that_cannot_be_drawn(cmc):
    with pytest.raises(InputError, match="CMC curve is empty or not finite"):
        render("t", METRICS, cmc, {}, [])


def test_names_an_unreadable_image():
    with pytest.raises(InputError, match="person 3"):
        render("t", METRICS, CMC, {}, [Example(b"no image", "person 3", [])])


@pytest.mark.parametrize(
    ("hits", "misses", "expected"),
    [(20, 20, (4, 4)), (20, 1, (7, 1)), (1, 20, (1, 7)), (2, 3, (2, 3)), (9, 0, (8, 0))],
)
def test_examples_are_right_and_wrong_in_equal_parts_where_there_are_enough(hits, misses, expected):
    right = named_generator("test_report").permutation(np.repeat([True, False], [hits, misses]))
    chosen = choose_examples(right, count=8)
    assert chosen == sorted(set(chosen))
    assert (right[chosen].sum(), (~right[chosen]).sum()) == expected


# Sheets


def test_a_sheet_frames_the_right_person_green_and_the_wrong_one_red(tmp_path):
    write_sheets(tmp_path / "ranked", {"c1/0007.png": example(), "c1_0007.png": example()})
    first, second = sorted((tmp_path / "ranked").iterdir())  # two ids, two files
    assert first.read_bytes() == second.read_bytes()
    shown = decode(first.read_bytes(), "sheet")
    red, green, _ = shown[0].astype(int).T  # along the upper edge: three frames of one width
    width = shown.shape[1] // 3
    np.testing.assert_array_equal(
        np.repeat([0, 1, -1], width), np.sign((green - red) * (abs(green - red) > 50))
    )
    assert image_in(shown[:, :width], image(64, 24))
    assert image_in(shown[:, width : 2 * width], image(40, 20))


def image_in(cell, wanted):
    windows = np.lib.stride_tricks.sliding_window_view(cell, wanted.shape)[:, :, 0]
    return (windows == wanted).all(axis=(2, 3, 4)).any()


def test_a_sheet_shows_few_matches_and_is_small(tmp_path):
    match = Match(encode_png(image(256, 128)), "person 9", correct=True)
    write_sheets(tmp_path, {"q": Example(encode_png(image(256, 128)), "person 9", [match] * 10)})
    assert (tmp_path / "q.png").stat().st_size < 120_000  # of noise, which no PNG compresses


def test_without_examples_there_is_an_empty_folder(tmp_path):
    write_sheets(tmp_path / "ranked", {})
    assert not list((tmp_path / "ranked").iterdir())
