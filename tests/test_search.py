"""dgrl embed, index and search on small folders and tables, with a network without weights."""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from fake_network import FakeNetwork
from small_images import image_row, smooth_image
from small_network import write_network
from typer.testing import CliRunner

from dgrl.embedders import embedder as door
from dgrl.embedders.export_hf import export_hf
from dgrl.images import encode_png
from dgrl.search.blur import blur_faces
from dgrl.search.index import Index
from dgrl.tables import write_table
from pipeline.cli import app

pytest.importorskip("faiss")

Command = Callable[..., str]
PATTERN = r"(?:.*/)?p(?P<person_id>\d+)_(?P<camera_id>\w+)\.png"


def encoded(person: int, camera: str) -> bytes:
    """A person looks alike in both cameras."""
    noise = smooth_image("noise", person, camera).astype(float) - 127
    image = smooth_image("person", person).astype(float) + 0.1 * noise
    return encode_png(image.clip(0, 255).astype(np.uint8))


@pytest.fixture
def dgrl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command in a folder with images of five persons, with a fake network for every file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(door, "load_embedder", lambda *_, **__: FakeNetwork())
    Path("gallery/inner").mkdir(parents=True)
    for person in range(5):
        Path(f"gallery/inner/p{person}_a.png").write_bytes(encoded(person, "a"))
    Path("model.onnx").touch()

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    return run


def index(dgrl: Command, *more: str) -> Index:
    dgrl("index", "gallery", "--model", "model.onnx", "--out", "index", *more)
    return Index.load(Path("index"))


def query(person: int, factor: int = 1) -> str:
    image: Any = cv2.imdecode(np.frombuffer(encoded(person, "b"), np.uint8), cv2.IMREAD_COLOR)
    small = cv2.resize(image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    Path(f"query{person}.png").write_bytes(cv2.imencode(".png", small)[1].tobytes())
    return f"query{person}.png"


def ranked(output: str) -> list[str]:
    """The persons of a terminal's table, by rank."""
    return re.findall(r"p(\d)_a\.png", output)


def test_the_nearest_image_is_the_persons(dgrl: Command) -> None:
    index(dgrl)
    for person in range(5):
        output = dgrl("search", query(person), "--index", "index", "--top", "3")
        assert ranked(output)[0] == str(person)
        assert len(ranked(output)) == 3
        assert f"query{person}.png (high-resolution)" in output


def test_a_small_query_is_low_resolution(dgrl: Command) -> None:
    index(dgrl)
    output = dgrl("search", query(2, factor=4), query(3), "--index", "index")
    assert "query2.png (low-resolution)" in output
    assert "query3.png (high-resolution)" in output
    assert ranked(output)[0] == "2"


def test_an_index_follows_its_folder(dgrl: Command) -> None:
    first = index(dgrl)
    assert len(first.rows) == 5
    Path("gallery/inner/p0_a.png").unlink()
    Path("gallery/inner/p1_a.png").write_bytes(encoded(9, "a"))
    Path("gallery/new.png").write_bytes(encoded(1, "a"))
    second = index(dgrl)
    names = [Path(path).name for path in second.rows.image_path]
    assert sorted(names) == ["new.png", "p1_a.png", "p2_a.png", "p3_a.png", "p4_a.png"]
    assert ranked(dgrl("search", query(0), "--index", "index")).count("0") == 0
    assert "new.png" in dgrl("search", query(1), "--index", "index", "--top", "1")
    for row, vector in zip(second.rows.to_dict("records"), second.vectors, strict=True):
        data = Path(row["image_path"]).read_bytes()
        assert row["image_sha256"] == hashlib.sha256(data).hexdigest()
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        expected = FakeNetwork().embed([image[:, :, ::-1]], "hr")
        np.testing.assert_array_equal(vector, expected[0])


def test_unchanged_images_are_not_embedded_again(dgrl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    before = index(dgrl)
    network = FakeNetwork()
    monkeypatch.setattr(door, "load_embedder", lambda *_, **__: network)
    after = index(dgrl, "--pattern", PATTERN)
    assert network.seen == []
    np.testing.assert_array_equal(before.vectors, after.vectors)
    assert before.rows.person_id.isna().all()
    assert set(after.rows.person_id) == set("01234")
    assert set(after.rows.camera_id) == {"a"}


def test_an_index_holds_several_folders_and_tables(dgrl: Command) -> None:
    rows = [image_row(smooth_image("person", person), person, "c") for person in (7, 8)]
    write_table(Path("table"), rows)
    index(dgrl)
    dgrl("index", "table", "--model", "model.onnx", "--out", "index")
    assert len(index(dgrl).rows) == 7
    output = dgrl("search", query(8), "--index", "index", "--top", "1", "--html", "sheet.html")
    assert "table#0008_c" in output
    assert "0008, c" in output
    assert Path("sheet.html").read_text().count("data:image/png") == 2


def test_images_are_removed_and_never_found_again(dgrl: Command) -> None:
    write_table(Path("table"), [image_row(smooth_image("person", person), person, "c") for person in (7, 8)])
    index(dgrl)
    dgrl("index", "table", "--out", "index")  # of the index's model
    shutil.rmtree("gallery/inner")
    dgrl("index", "gallery/inner/p2_a.png", "--out", "index", "--remove")
    found = dgrl("search", query(2), "--index", "index")
    assert sorted(ranked(found)) == list("0134")
    dgrl("index", "gallery", "--out", "index", "--remove")
    found = dgrl("search", query(2), "--index", "index")
    assert ranked(found) == []
    assert found.count("table#") == 2
    dgrl("index", "table#0007_c", "--out", "index", "--remove")
    assert "0007_c" not in dgrl("search", query(2), "--index", "index")
    dgrl("index", "table", "--out", "index", "--remove")
    assert len(Index.load(Path("index")).rows) == 0
    done = CliRunner().invoke(app, ["index", "table", "--out", "index", "--remove"])
    assert "index has no image of table" in str(done.exception)


def test_a_sheet_to_share_has_no_faces(dgrl: Command) -> None:
    index(dgrl)
    search = ("search", query(1), "--index", "index", "--html")
    dgrl(*search, "sheet.html")
    dgrl(*search, "shared.html", "--blur-faces")
    assert Path("shared.html").read_text() == blur_faces(Path("sheet.html").read_text())
    done = CliRunner().invoke(app, ["search", query(1), "--index", "index", "--blur-faces"])
    assert "add --html FILE" in str(done.exception)


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_a_kind_is_kept_until_another_is_asked_for(dgrl: Command, kind: str) -> None:
    assert index(dgrl, "--kind", kind).kind == kind
    assert index(dgrl).kind == kind
    assert ranked(dgrl("search", query(4), "--index", "index"))[0] == "4"
    assert index(dgrl, "--kind", "exact").kind == "exact"
    assert not Path("index/faiss.index").exists()


def test_the_sheet_is_whole_and_asks_for_nothing(dgrl: Command) -> None:
    index(dgrl, "--pattern", PATTERN)
    Path("gallery/inner/p3_a.png").unlink()
    evil = Path("<img src=x>.png")
    evil.write_bytes(encoded(1, "b"))
    dgrl("search", str(evil), query(2), "--index", "index", "--html", "out/sheet.html")
    page = Path("out/sheet.html").read_text()
    assert page.count("<section>") == 2
    assert page.count("image is gone") == 2
    assert page.count("data:image/png;base64,") == 2 + 2 * 4
    assert "<img src=x>" not in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)|url\(|@import""", page)


def test_the_table_of_embeddings(dgrl: Command) -> None:
    dgrl("embed", "gallery", query(1, factor=4), "--model", "model.onnx", "--out", "table.parquet")
    table = pd.read_parquet("table.parquet")
    assert list(table.resolution) == ["hr"] * 5 + ["lr"]
    assert np.stack(table.embedding.tolist()).shape == (6, 96)
    metadata = pq.read_schema("table.parquet").metadata
    assert metadata[b"dgrl.model_sha256"] == b"f" * 64


def calibrate(**values: Any) -> None:
    """Even odds at a similarity of 0.5, ten times as likely at 0.9; a threshold at 0.8."""
    odds = {
        "similarity": [0.5, 0.9],
        "log_odds": [0.0, math.log(10)],
        "thresholds": {"0.1": 0.0, "0.001": 0.8},
    }
    found = {"model": "f" * 64, "method": "logistic", "pairs": [9, 99], **odds, **values}
    Path("calibration.json").write_text(json.dumps(found))


def answers(output: str) -> dict[str, tuple[float, str]]:
    """Similarity and answer of each person."""
    rows = re.findall(r"([-.\d]+) +│ (unknown|same person [.\d]+) +│ .*p(\d)_a", output)
    return {person: (float(similarity), answer) for similarity, answer, person in rows}


def test_a_calibrated_answer(dgrl: Command) -> None:
    index(dgrl)
    calibrate()
    found = answers(dgrl("search", query(2, factor=4), "--index", "index", "--prior", "0.5"))
    assert len(found) == 5
    for similarity, answer in found.values():
        odds = 10 ** min(max((similarity - 0.5) / 0.4, 0), 1)
        expected = "unknown" if similarity <= 0.8 else f"same person {odds / (1 + odds):.2f}"
        assert answer == expected
    assert found["2"][1].startswith("same person")
    assert "unknown" in [answer for _, answer in found.values()]
    rare = answers(dgrl("search", query(2, factor=4), "--index", "index"))  # one of five images
    assert float(rare["2"][1].split()[-1]) < float(found["2"][1].split()[-1])
    loose = answers(
        dgrl("search", query(2, factor=4), "--index", "index", "--fmr", "0.1", "--html", "s.html")
    )
    accepted = [answer for _, answer in loose.values() if answer != "unknown"]
    assert len(accepted) == sum(similarity > 0 for similarity, _ in loose.values()) > 1
    assert Path("s.html").read_text().count("same person") == len(accepted)


def test_an_exported_network_brings_its_own_calibration(dgrl: Command) -> None:
    export_hf(write_network(Path("model.safetensors")), Path("network"))
    dgrl("index", "gallery", "--model", "network", "--out", "index", "--pattern", PATTERN)
    calibrate()
    asked = ("search", query(2, factor=4), "--index", "index")
    assert not answers(dgrl(*asked))  # that of the files beside the folder
    Path("calibration.json").rename("network/calibration.json")
    assert len(answers(dgrl(*asked))) == 5


def test_a_run_is_found_from_its_own_folder(dgrl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("search", str(Path(query(2, factor=4)).absolute()), "--index", str(Path("index").absolute()))
    index(dgrl)
    calibrate()
    Path("eval").mkdir()
    Path("calibration.json").rename("eval/calibration.json")
    Path("dgrl").mkdir()
    Path("model.onnx").rename("dgrl/model.onnx")
    monkeypatch.chdir("dgrl")
    assert len(answers(dgrl(*asked, "--model", "model.onnx"))) == 5


def test_it_says_that_a_high_resolution_query_is_another_case(dgrl: Command) -> None:
    index(dgrl)
    calibrate()
    assert "low-resolution queries are what the answers are calibrated on" in " ".join(
        dgrl("search", query(2), "--index", "index").split()
    )


@pytest.mark.parametrize("kind", ["null", "of another model"])
def test_without_its_own_calibration_there_is_no_answer(dgrl: Command, kind: str) -> None:
    index(dgrl)
    calibrate(model="e" * 64)
    if kind == "null":
        Path("calibration.json").write_text("null")
    assert not answers(dgrl("search", query(2, factor=4), "--index", "index"))


@pytest.mark.parametrize(
    ("options", "values", "said"),
    [
        (["--fmr", "0.05"], {}, "no threshold for a false-match rate of 0.05 (there are: 0.001, 0.1)"),
        (["--prior", "1"], {}, "--prior 1.0 is no probability"),
        ([], {"method": "magic"}, "calibration.json: method = 'magic'"),
        (["--fmr", "0.1"], None, "--fmr and --prior need a calibration.json"),
    ],
)
def test_a_wrong_calibration_or_option(
    dgrl: Command,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    values: dict[str, Any] | None,
    said: str,
) -> None:
    index(dgrl)
    if values is not None:
        calibrate(**values)
    monkeypatch.delattr(FakeNetwork, "embed")  # it is refused before any query is embedded
    done = CliRunner().invoke(app, ["search", query(2), "--index", "index", *options])
    assert said in str(done.exception)


def test_a_name_with_the_sign_of_tables_is_a_files(dgrl: Command) -> None:
    Path("gallery/cam").mkdir()
    for name in ("cam/0.png", "cam#1.png"):
        Path("gallery", name).write_bytes(encoded(1, "a"))
    assert len(index(dgrl).rows) == 7
    dgrl("index", "gallery/cam", "--model", "model.onnx", "--out", "index")
    assert len(Index.load(Path("index")).rows) == 7
    Path("gallery/cam#1.png").unlink()
    assert "cam#1.png" in dgrl("search", query(1, factor=4), "--index", "index", "--html", "sheet.html")


def test_a_name_that_is_no_text_is_named(dgrl: Command) -> None:
    Path(os.fsdecode(b"gallery/\xff.png")).write_bytes(encoded(1, "a"))
    done = CliRunner().invoke(app, ["index", "gallery", "--model", "model.onnx", "--out", "index"])
    assert r"the name 'gallery/\udcff.png' is no UTF-8 text" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search", "gone.png", "--index", "index"], "gone.png cannot be read"),
        (["search", "gallery", "--index", "gone"], "gone is no index"),
        (
            ["index", "gallery/inner", "--model", "model.onnx", "--out", "index", "--pattern", "("],
            "no regular",
        ),
        (["index", "gallery", "--model", "model.onnx", "--out", "index", "--pattern", "a"], "has no group"),
        (["index", "gallery", "--model", "other.onnx", "--out", "index"], "the index is of the model"),
        (["index", "gallery", "--out", "gone"], "give the network to make it with: --model FILE"),
        (["index", "elsewhere", "--out", "index", "--remove"], "index has no image of elsewhere"),
        (["embed", "gallery", "--model", "model.onnx", "--out", "gallery"], "gallery"),
    ],
)
def test_a_mistake_is_named_and_changes_nothing(
    dgrl: Command, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    index(dgrl)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    if "other.onnx" in arguments:
        monkeypatch.setattr(FakeNetwork, "digest", "e" * 64)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code
    assert said in str(done.exception)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
