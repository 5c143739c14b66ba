"""Networks compared under the protocol, beside the tables that the stages write for each trial."""

import csv
import json
from pathlib import Path
from typing import Any, Literal, cast

import cv2
import numpy as np
import pytest
import torch
from small_network import write_network, write_whitening
from test_embedders import channel_means
from test_fuzz_files import rcan

from dgrl.embedders.adapted import Adapted, load_whitening
from dgrl.embedders.catalog import load_embedder
from dgrl.embedders.export_hf import export_hf
from dgrl.errors import InputError
from dgrl.evaluation.keys import with_keys
from dgrl.evaluation.ranking import rank
from dgrl.model.network import DGRL
from dgrl.model.params import ModelParams
from dgrl.random import named_generator
from dgrl.superres.params import SrParams
from dgrl.superres.upscale import upscale_table
from dgrl.tables import read_keys, read_rows
from dgrl.weights.published import save_model
from pipeline.adapt import adapt
from pipeline.download import download
from pipeline.experiments.compare import Result, compare
from pipeline.experiments.compare_files import markdown, write
from pipeline.params import Params, load_params
from pipeline.paths import Paths
from pipeline.split import split

ROOT = Path(__file__).parents[1]
BASELINES = ROOT.parent / "shared/data/baselines"


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The synthetic set of 60 persons, downloaded into a project of its own."""
    text = (ROOT / "params.yaml").read_text().replace("persons: 120", "persons: 60")
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(text)
    channel_means(Path("means.onnx"), ["N", 3, 32, 16])
    loaded = load_params()
    download("synthetic", loaded)
    return loaded


def by_the_stages(params: Params, trial: int, flip: bool) -> dict[str, float]:
    """The metrics of the tables that the split stage writes."""
    mlr = params.mlr.model_copy(update={"trial": trial})
    split("synthetic", params.model_copy(update={"mlr": mlr}), workers=1)
    network = load_embedder(Path("means.onnx"), "rgb", flip=flip)
    sides: list[Any] = []
    for table in ("query", "gallery"):
        path = Paths("synthetic").mlr(table)
        sides += [network.embed([row.pixels() for row in read_rows(path)], "hr"), read_keys(path)]
    return rank(*with_keys(*sides)).metrics()


@pytest.mark.parametrize("flip", [False, True])
def test_a_network_is_measured_as_by_the_stages(params: Params, flip: bool) -> None:
    [result] = compare(["means.onnx@rgb"], ["synthetic"], params, trials=2, flip=flip)
    expected = [by_the_stages(params, trial, flip) for trial in (0, 1)]
    for name in expected[0]:
        values = [metrics[name] for metrics in expected]
        assert result.mean[name] == pytest.approx(np.mean(values), abs=1e-6)
        assert result.std[name] == pytest.approx(np.std(values, ddof=1), abs=1e-6)


def test_lr_images_are_upscaled_as_by_the_stages(params: Params) -> None:
    mlr = params.mlr.model_copy(update={"factors": (2,)})
    params = params.model_copy(update={"mlr": mlr})
    split("synthetic", params, workers=1)
    paths, weights = Paths("synthetic"), Path("data/other/rcan/x2/rcan.safetensors")
    weights.parent.mkdir(parents=True)
    torch.manual_seed(0)
    weights.write_bytes(rcan())
    network = load_embedder(Path("means.onnx"), "rgb", flip=False)
    gallery = [row.pixels() for row in read_rows(paths.mlr("gallery"))]
    keys = [read_keys(paths.mlr(table)) for table in ("query", "gallery")]
    found = {}
    methods: list[tuple[Literal["bicubic", "rcan"], Path | None]] = [
        ("bicubic", None),
        ("rcan", weights.parents[1]),
    ]
    for method, folder in methods:
        upscale_table(paths.mlr("query"), Path("sr"), {2: weights}, SrParams(method=method), workers=1)
        queries = [row.pixels() for row in read_rows(Path("sr"))]
        sides = network.embed(queries, "lr"), keys[0], network.embed(gallery, "hr"), keys[1]
        [result] = compare(
            ["means.onnx@rgb"], ["synthetic"], params, trials=1, upscale=method, rcan=folder, flip=False
        )
        found[method] = result.mean["mAP"]
        assert found[method] == pytest.approx(rank(*with_keys(*sides)).metrics()["mAP"], abs=1e-6)
    assert found["rcan"] != found["bicubic"]


def test_rcans_of_persons_of_the_test_are_refused(params: Params) -> None:
    split("synthetic", params, workers=1)
    for factor in (2, 3, 4):
        weights = Paths("synthetic").root / f"rcan/x{factor}/rcan.safetensors"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(rcan(factor))
    rcans = weights.parents[1]
    assert compare(["means.onnx@rgb"], ["synthetic"], params, trials=1, upscale="rcan", rcan=rcans)
    with pytest.raises(InputError, match=r"trained on \d+ persons of synthetic whose images trial 1 tests"):
        compare(["means.onnx@rgb"], ["synthetic"], params, trials=2, upscale="rcan", rcan=rcans)
    Paths("synthetic").split.write_text("{")
    with pytest.raises(InputError, match=r"split\.json is damaged"):
        compare(["means.onnx@rgb"], ["synthetic"], params, trials=1, upscale="rcan", rcan=rcans)
    with pytest.raises(InputError, match="go together"):
        compare(["means.onnx@rgb"], ["synthetic"], params, rcan=rcans)


def test_the_tables_say_what_was_measured(params: Params) -> None:
    results = compare(["means.onnx@rgb"], ["synthetic"], params, trials=2, adapt=True)
    assert [(result.adapted, result.trials) for result in results] == [(False, 2), (True, 2)]
    assert len(results[1].shrinkage) == 2
    text = write(Path("out"), results)
    assert Path("out/compare.md").read_text() == text == markdown(results)
    assert [Result(**each) for each in json.loads(Path("out/compare.json").read_text())] == results
    assert f"{results[1].mean['rank1']:.1f} ± {results[1].std['rank1']:.1f}" in text
    svg = Path("out/compare.svg").read_bytes()
    write(Path("out"), results)
    assert svg == Path("out/compare.svg").read_bytes()


def test_two_networks_of_one_name_are_told_apart(params: Params) -> None:
    Path("b").mkdir()
    channel_means(Path("b/means.onnx"), ["N", 3, 32, 16])
    models = ["means.onnx@rgb", "b/means.onnx@rgb"]
    assert [result.network for result in compare(models, ["synthetic"], params, trials=1)] == models


def test_the_tables_say_that_held_out_training_persons_were_measured(params: Params) -> None:
    val = params.model_copy(update={"mlr": params.mlr.model_copy(update={"evaluate_on": "val"})})
    texts = [markdown(compare(["means.onnx@rgb"], ["synthetic"], each, trials=1)) for each in (params, val)]
    assert ["evaluate_on: val" in text for text in texts] == [False, True]


def test_a_network_that_knows_the_persons_is_refused(params: Params) -> None:
    small = ModelParams(backbone="resnet18", weights="none", height=64, width=32, dimension=16, groups=4)
    split("synthetic", params, workers=1)
    description = json.loads(Paths("synthetic").split.read_text())
    tested, trained = description["test_persons"], description["train_persons"]
    torch.manual_seed(0)
    network = DGRL(small, 3)
    save_model(Path("a.safetensors"), network, small, 3, [f"synthetic/{tested[0]}"])
    with pytest.raises(InputError, match=r"trained on 1 of the 30 persons .* tested on in trial 0"):
        compare(["a.safetensors"], ["synthetic"], params, trials=1)
    save_model(Path("b.safetensors"), network, small, 3, [f"synthetic/{person}" for person in trained])
    assert len(compare(["b.safetensors"], ["synthetic"], params, trials=1)) == 1
    with pytest.raises(InputError, match=r"trained on 30 of the 30 persons .* adapted with in trial 0"):
        compare(["b.safetensors"], ["synthetic"], params, trials=1, adapt=True)


def write_pairs(folder: Path) -> Path:
    """A table of a hundred persons of one colour each, and their images."""
    rng = named_generator("pairs")
    with (folder / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["query", "gallery"])
        for person in range(100):
            colour = rng.integers(0, 256, 3)
            for name, size in ((f"q{person}.png", (16, 8, 3)), (f"g{person}.png", (64, 32, 3))):
                noise = rng.integers(-20, 20, size)
                cv2.imwrite(str(folder / name), np.clip(colour + noise, 0, 255).astype(np.uint8))
            table.writerow([f"q{person}.png", f"g{person}.png"])
    return folder / "pairs.csv"


def test_own_pairs_make_a_whitening(tmp_path: Path) -> None:
    network = channel_means(tmp_path / "means.onnx", ["N", 3, 32, 16])
    output = tmp_path / "whitening.safetensors"
    fitted = adapt(f"{network}@rgb", write_pairs(tmp_path), output)
    again = load_whitening(output, load_embedder(network, "rgb", flip=True), flip=True)
    np.testing.assert_array_equal(fitted.matrix, again.matrix)
    assert fitted.pairs == 100


def test_an_exported_network_is_adapted_anew(tmp_path: Path) -> None:
    model = write_network(tmp_path / "model.safetensors")
    folder, output = tmp_path / "network", tmp_path / "new.safetensors"
    export_hf(
        model, folder, flip=True, whitening=write_whitening(tmp_path / "old.safetensors", model, flip=True)
    )
    fitted = adapt(str(folder), write_pairs(tmp_path), output, flip=False)
    again = load_embedder(folder, whitening=output)
    np.testing.assert_array_equal(fitted.matrix, cast(Adapted, again).whitening.matrix)
    with pytest.raises(InputError, match="is no name for the result"):
        adapt(str(folder), tmp_path / "pairs.csv", folder / "model.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("query,other\na,b\n", "no column gallery"),
        ("query,gallery,query\na,b,c\n", "has the column query 2 times"),
        (
            "query,gallery\na.png,b.png\na.png,c.png\n",
            "the query a.png is of row 1 and of row 2",
        ),
        (
            "query,gallery,person_id\na,b,1\nc,b,2\n",
            "the gallery b is of 1 and of 2; an image",
        ),
        ("query;gallery\n;b\n", "row 1 below the header has no query"),
        ("query,gallery\na\0,b\n", "cannot be read .*null byte"),
        ("query,gallery\na\n", "row 1 below the header"),
        ("query,gallery\na,b,c\n", "row 1 below the header"),
        ("query,gallery\nnone.png,none.png\n", "none.png cannot be read"),
        ("\0", "no column query"),
    ],
)
def test_a_wrong_table_of_pairs_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    network = channel_means(tmp_path / "means.onnx", ["N", 3, 32, 16])
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        adapt(f"{network}@rgb", tmp_path / "pairs.csv", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_whitening_is_not_written_over_its_network(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("query,gallery\na,b\n")
    (tmp_path / "model.safetensors").write_text("weights")
    for output in (tmp_path / "model.safetensors", tmp_path / "w.onnx"):
        with pytest.raises(InputError, match="is no name for the result"):
            adapt(str(tmp_path / "model.safetensors"), tmp_path / "pairs.csv", output)
    assert (tmp_path / "model.safetensors").read_text() == "weights"
