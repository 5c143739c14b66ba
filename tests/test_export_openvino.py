"""OpenVINO's two files beside PyTorch."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from small_network import random_images, write_network, write_rcan

from dgrl import Embedder
from dgrl.embedders.catalog import load_embedder
from dgrl.errors import InputError

pytest.importorskip("onnxscript")
openvino = pytest.importorskip("openvino")

from dgrl.embedders.export import ExportOptions, Precision  # noqa: E402 (it needs the packages)
from dgrl.embedders.export_openvino import export_openvino  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.mark.parametrize(
    ("precision", "least", "bytes_each"),
    [("float32", 0.9999, 4.4), ("float16", 0.9999, 2.2), ("int8", 0.9, 1.5)],
)
def test_it_is_read_again(
    model: Path, tmp_path: Path, precision: Precision, least: float, bytes_each: float
) -> None:
    path = tmp_path / "network.xml"
    images = random_images(300)
    said = export_openvino(model, path, ExportOptions("lr", precision=precision), images)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["network.bin", "network.xml"]
    held = images[128:] if precision == "int8" else images
    found, expected = (load_embedder(each).embed(held, "lr").astype(float) for each in (path, model))
    cosines = (found * expected).sum(axis=1)
    assert cosines.min() >= least
    assert said.least == pytest.approx(cosines.min(), abs=1e-4)
    used = {
        name: each for name, each in load_file(model).items() if not name.startswith(("side", "stems.hr"))
    }
    assert path.with_suffix(".bin").stat().st_size < bytes_each * sum(each.numel() for each in used.values())


def test_restoring_is_inside(model: Path, tmp_path: Path) -> None:
    rcan = write_rcan(tmp_path / "rcan", 2)
    file = tmp_path / "query.xml"
    assert export_openvino(model, file, ExportOptions("lr", sr=2, rcan=rcan)).least >= 0.9999
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    embedder = Embedder.load(model, rcan=rcan)
    sample = [image[:20, :13] for image in random_images(3)]
    found = compiled(np.stack(sample).transpose(0, 3, 1, 2).astype(np.float32))[0]
    expected = embedder.embed([np.ascontiguousarray(image) for image in sample], "lr")
    assert (found.astype(float) * expected).sum(axis=1).min() >= 0.9999
    with pytest.raises(InputError, match=r"query\.xml restores LR images itself \(rcan x2\)"):
        load_embedder(file)


def test_another_suffix_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not end in \.xml"):
        export_openvino(model, tmp_path / "model.bin")
