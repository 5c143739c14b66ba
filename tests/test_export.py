"""The command, and that one network has the same embeddings whichever way it is used."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from command_line import Command
from small_network import random_images, write_network, write_whitening

from dgrl import Embedder
from dgrl.files import sha256
from dgrl.images import Image, encode_png
from dgrl.superres.pretrain import publish_nothing
from dgrl.tables import read_rows
from pipeline.cache_sr import cache_sr
from pipeline.download import download
from pipeline.evaluate import evaluate
from pipeline.params import load_params
from pipeline.paths import Paths
from pipeline.split import split
from pipeline.train import train

for package in ("onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(package)

pytestmark = pytest.mark.slow
RUN = Paths("synthetic")


def run_stages() -> None:
    """A tiny run: one factor, bicubic interpolation, a few optimizer steps."""
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["source"]["synthetic"] |= {"persons": 60, "width": 32, "height": 64}
    values["mlr"]["factors"], values["rcan"]["scales"], values["sr"]["method"] = [2], [2], "bicubic"
    values["model"] |= {"height": 64, "width": 32, "dimension": 16, "groups": 4}
    values["train"] |= {"persons_per_batch": 4, "epochs": 2, "learning_rate": 0.005}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    for code in ("dgrl", "pipeline"):  # whose digest names the folder that a killed run resumes from
        Path(code).symlink_to(Path(__file__).parents[1] / code)
    params = load_params()
    download("synthetic", params)
    split("synthetic", params, workers=1)
    publish_nothing(RUN.rcan(2), "sr.method is bicubic")
    cache_sr("synthetic", params, workers=1)
    train("synthetic", params)
    evaluate("synthetic", params, workers=1)


def pixels(table: Path) -> dict[str, Image]:
    return {row.image_id: row.pixels() for row in read_rows(table)}


def test_evaluate_embedder_onnx_openvino_and_folder_agree(dgrl: Command) -> None:
    run_stages()
    rows = pd.read_parquet(RUN.eval / "embeddings.parquet")
    query, gallery = pixels(RUN.mlr("query")), pixels(RUN.mlr("gallery"))
    expected = {
        side: np.stack([*rows.embedding[rows.subset == side]]).astype(float) for side in ("query", "gallery")
    }
    images = {
        side: [table[image_id] for image_id in rows.image_id[rows.subset == side]]
        for side, table in (("query", query), ("gallery", gallery))
    }
    for form, suffix in (("onnx", ".onnx"), ("openvino", ".xml")):
        for resolution in ("hr", "lr"):
            out = f"{resolution}{suffix}"
            status, said = dgrl(
                "export", str(RUN.model), "--format", form, "--resolution", resolution, "--out", out
            )
            assert status == 0, said
    status, said = dgrl("export", str(RUN.model), "--format", "hf", "--out", "folder")
    assert status == 0, said
    both = [str(RUN.model), "folder"]
    for lr, hr in (*zip(both, both, strict=True), ("lr.onnx", "hr.onnx"), ("lr.xml", "hr.xml")):
        for side, resolution, network in (("query", "lr", lr), ("gallery", "hr", hr)):
            found = Embedder.load(network).embed(images[side], resolution)  # type: ignore[arg-type]
            assert (found * expected[side]).sum(axis=1).min() >= 0.9999, network
    card = Path("folder/README.md").read_text()
    metrics = json.loads((RUN.eval / "metrics.json").read_text())["synthetic"]
    assert f"| Rank-1, single-shot | {metrics['rank1']} |" in card
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "mit"
    calibration = json.loads(Path("folder/calibration.json").read_text())
    assert calibration["model"] == sha256(Path("folder/model.safetensors"))
    status, said = dgrl("export", str(RUN.model), "--format", "hf", "--flip", "--out", "mirrored")
    assert status == 0, said
    assert not Path("mirrored/calibration.json").exists()  # evaluate.flip is false: of other embeddings
    assert "It was not evaluated" in Path("mirrored/README.md").read_text()


def test_the_command_says_what_it_found(dgrl: Command, caplog: pytest.LogCaptureFixture) -> None:
    model = write_network(Path("model.safetensors"))
    write_whitening(Path("whitening.safetensors"), model, flip=True)
    Path("images").mkdir()
    for number, image in enumerate(random_images(10)):
        Path(f"images/{number}.png").write_bytes(encode_png(image))
    more = ("--images", "images", "--flip", "--whitening", "whitening.safetensors", "--precision", "float16")
    status, said = dgrl("export", str(model), "--out", "model.onnx", *more)
    assert status == 0, said
    assert "cosine to PyTorch at least 0.99" in caplog.text
    assert "on 10 images" in caplog.text
    assert len(said.splitlines()) < 5
    status, said = dgrl("export", str(model), "--format", "hf", "--out", "folder")
    assert status == 0, said
    assert "no evaluation of this network" in caplog.text


@pytest.mark.parametrize("damaged", ["{", "[1]", "5"])
def test_a_damaged_calibration_is_no_evaluation_of_this_network(dgrl: Command, damaged: str) -> None:
    RUN.model.parent.mkdir(parents=True)
    write_network(RUN.model)
    RUN.eval.mkdir()
    (RUN.eval / "metrics.json").write_text('{"synthetic": {"rank1": 99.0}}')
    (RUN.eval / "calibration.json").write_text(damaged)
    status, said = dgrl("export", str(RUN.model), "--format", "hf", "--out", "folder")
    assert status == 1
    assert "calibration.json is damaged" in said
    assert not Path("folder").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gone.safetensors", "--out", "x.onnx"), "gone.safetensors does not exist"),
        (("model.safetensors", "--out", "x.bin"), "does not end in .onnx"),
        (("model.safetensors", "--out", "x.onnx", "--precision", "int8"), "give them by --images"),
        (("model.safetensors", "--out", "x.onnx", "--sr", "2"), "give --resolution lr"),
        (("model.safetensors", "--out", "x", "--format", "hf", "--sr", "2"), "leave out --resolution"),
    ],
)
def test_a_mistake_is_one_line(dgrl: Command, arguments: tuple[str, ...], said: str) -> None:
    write_network(Path("model.safetensors"))
    status, output = dgrl("export", *arguments)
    assert (status, output.count("\n")) == (1, 1)
    assert said in output
    assert not list(Path().glob("x*"))
