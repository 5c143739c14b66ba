"""The report of stage evaluate, of a small set and a network with random weights."""

import json
import re
from html import unescape
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
import yaml
from browser import CHROMIUM, Browser
from test_report_browser import HIDDEN, WIDER

from dgrl.model.network import DGRL
from dgrl.superres.pretrain import publish_nothing
from dgrl.weights.published import save_model
from pipeline import origin as origins
from pipeline.cache_sr import cache_sr
from pipeline.download import download
from pipeline.evaluate import evaluate
from pipeline.params import Params, load_params
from pipeline.paths import Paths
from pipeline.split import split

REPOSITORY = Path(__file__).parents[1]
DATASET = "viper"  # the paper has a row of it


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Params:
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    values["datasets"] = [DATASET]
    values["source"][DATASET] = values["source"]["synthetic"] | {"persons": 40, "width": 33, "height": 64}
    values["mlr"]["lr_camera"][DATASET] = "c1"
    values["sr"]["method"] = "bicubic"
    values["model"] |= {"height": 64, "width": 32, "dimension": 16, "groups": 4}
    file = tmp_path_factory.mktemp("params") / "params.yaml"
    file.write_text(yaml.safe_dump(values))
    return load_params(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Path:
    """A project whose stages before evaluate have run."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        paths = Paths(DATASET)
        download(DATASET, params)
        split(DATASET, params, workers=1)
        publish_nothing(paths.rcan(2), "sr.method is bicubic")
        publish_nothing(paths.rcan(3), "sr.method is bicubic")
        (paths.rcan(3) / "options.json").write_text('{"iterations": 1234}')
        cache_sr(DATASET, params, workers=1)
        torch.manual_seed(0)
        save_model(paths.model, DGRL(params.model, persons=8).eval(), params.model, 8)
        sections = ("model", "loss", "augment", "train")
        config = {name: getattr(params, name).model_dump() for name in sections}
        paths.config.write_text(json.dumps(config))
        paths.losses.write_text("step,total\n10,9.5\n20,4.25\n")
    return root


@pytest.fixture(scope="module")
def page(folder: Path, params: Params) -> str:
    return report(folder, params)


def report(folder: Path, params: Params) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        evaluate(DATASET, params, workers=1)
    return unescape((folder / f"data/{DATASET}/eval/report.html").read_text())


def test_the_paper_and_the_untrained_network_stand_beside_the_run(page: str) -> None:
    assert '<th scope="row">DGRL (paper)</th><td>45.9</td><td>73.7</td><td>83.9</td>' in page
    assert '<th scope="row">untrained</th>' in page
    assert "paper, single-shot" in page  # in the CMC


def test_the_threshold_of_the_calibration_stands_in_the_histogram(folder: Path, page: str) -> None:
    calibration = json.loads((folder / f"data/{DATASET}/eval/calibration.json").read_text())
    assert f"above the threshold {calibration['thresholds']['0.01']:.2f}" in page


def test_the_calibration_stands_in_a_table_with_its_intervals(folder: Path, page: str) -> None:
    metrics = json.loads((folder / f"data/{DATASET}/eval/metrics.json").read_text())[DATASET]
    table = page.split("<h2>Same person or not</h2>")[1].split("</table>")[0]
    for row, group in (("all", "calibration"), ("x3", "factor3")):
        found = metrics[group]
        names = ["ece", *(f"tpr_at_1e-2{end}" for end in ("", "_low", "_high"))]
        cells = "".join(f"<td>{found[name]:.1f}</td>" for name in names)
        assert f'<th scope="row">{row}</th>{cells}' in table


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt install chromium)")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_of_a_runs_report_is_cut_off(browser: Browser, folder: Path, page: str, width: int) -> None:
    assert "Same person or not" in page
    browser.open(folder / f"data/{DATASET}/eval/report.html", width, "light")
    browser.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.evaluate(WIDER) == []
    assert browser.evaluate(HIDDEN) == []


def test_the_origin_names_opencv_from_another_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in many containers: the report ended with a traceback where it found no ``opencv-python``."""

    def version(name: str) -> str:
        if name == "opencv-python":
            raise PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.chdir(folder)
    monkeypatch.setattr(origins, "version", version)
    assert origins.origin(Paths(DATASET), {}, {})["opencv-python"] == "1.2.3"


def test_there_is_a_row_for_each_factor_and_camera_pair(page: str) -> None:
    assert [f'<th scope="row">x{factor}</th>' in page for factor in (2, 3, 4, 5)] == [True, True, True, False]
    assert [f'<th scope="row">c1 to c{camera}</th>' in page for camera in (1, 2, 3, 4)] == [
        *[False, True, True, True]
    ]


def test_every_query_that_is_shown_has_ten_matches_and_its_original(page: str) -> None:
    queries = page.count("<b>captured</b>")
    assert queries == 8
    assert page.count("<b>HR</b>") == queries
    assert len(re.findall("<b>10 [✓✗]</b>", page)) == queries
    assert page.count(" dB</figcaption>") == queries  # of bicubic interpolation, which is the method too


def test_a_query_without_a_right_match_shows_where_the_first_one_is(page: str) -> None:
    lists = page.split("the first image of this person is at rank ")[1:]
    ranks = [int(text.split("<")[0]) for text in lists]
    assert max(ranks) > 10
    for rank, text in zip(ranks, lists, strict=True):
        assert re.findall(r"<b>(\d+) ✓", text)[0] == str(rank)


def test_training_curves_and_every_section_of_options(page: str) -> None:
    assert "total from 9.50 to 4.25" in page
    for section in ("mlr", "sr", "rcan", "model", "loss", "augment", "train", "evaluate"):
        assert f'<th scope="row">{section}.' in page
    assert "sr.method is bicubic" in page
    assert re.search(r"rcan\.x3\.iterations</th>\s*<td>1234<", page)


def test_the_same_params_give_the_same_bytes(folder: Path, params: Params, page: str) -> None:
    assert report(folder, params) == page
    assert len(page) < 5e6


def test_no_query_need_be_shown(folder: Path, params: Params) -> None:
    none = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"examples": 0})})
    assert "<b>captured</b>" not in report(folder, none)
