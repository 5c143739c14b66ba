"""An exported network beside PyTorch's, as other programs read it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dgrl.embedders.catalog import load_embedder
from dgrl.embedders.protocol import Resolution
from dgrl.errors import InputError
from dgrl.images import Image, decode
from dgrl.model.network import DGRL
from dgrl.model.params import ModelParams
from dgrl.random import named_generator
from dgrl.weights.published import save_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from dgrl.embedders.export import export_onnx, export_openvino  # noqa: E402 (it needs the packages)

pytestmark = pytest.mark.slow
VIPER = Path(__file__).parents[2] / "shared/data/VIPeR.v1.0.zip"
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
RESOLUTIONS: tuple[Resolution, ...] = ("hr", "lr")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose batch norms have seen images: their statistics are not those of the start."""
    torch.manual_seed(0)
    params = ModelParams(backbone="resnet18", weights="none", height=64, width=32, dimension=32, groups=4)
    network = DGRL(params, persons=3).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(8, 3, 64, 32), torch.randn(8, 3, 64, 32))
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, network, params, 3)
    return path


@pytest.fixture(scope="module")
def exported(model: Path) -> dict[str, Path]:
    files: dict[str, Path] = {each: model.with_name(f"{each}.onnx") for each in RESOLUTIONS}
    for resolution in RESOLUTIONS:
        assert export_onnx(model, files[resolution], resolution) >= 0.9999
    return files


def images() -> list[Image]:
    """A thousand real ones where there are any."""
    if VIPER.exists():
        with zipfile.ZipFile(VIPER) as archive:
            names = [name for name in archive.namelist() if name.endswith(".bmp")][:1000]
            return [decode(archive.read(name), name) for name in names]
    return list(named_generator("export test").integers(0, 256, (100, 80, 40, 3), np.uint8))


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_embeddings_and_ranks_are_pytorchs(
    model: Path, exported: dict[str, Path], resolution: Resolution
) -> None:
    sample = images()
    ours = load_embedder(model).embed(sample, resolution)
    theirs = load_embedder(exported[resolution]).embed(sample, resolution)
    assert (ours.astype(float) * theirs).sum(axis=1).min() >= 0.9999
    ranks = [(-(part[:50] @ part[50:].T)).argsort(axis=1, kind="stable") for part in (ours, theirs)]
    similarity = ours[:50] @ ours[50:].T
    ordered = [np.take_along_axis(similarity, each, axis=1) for each in ranks]
    np.testing.assert_allclose(ordered[0], ordered[1], atol=1e-5)  # the same order, but for ties
    other = load_embedder(exported["lr" if resolution == "hr" else "hr"]).embed(sample[:20], resolution)
    assert (ours[:20] * other).sum(axis=1).min() < 0.9999  # the stems differ


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_other_programs_read_it(model: Path, exported: dict[str, Path], batch: int) -> None:
    """By its own names and shapes, with the normalisation that its metadata state."""
    sample = named_generator("batch", batch).integers(0, 256, (batch, 64, 32, 3), np.uint8)
    inputs = ((sample / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    session = onnxruntime.InferenceSession(exported["hr"])
    (found,) = session.run(["embeddings"], {"images": inputs})
    expected = load_embedder(model).embed(list(sample), "hr")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["dgrl.resolution"] == "hr"
    assert '"rgb"' in metadata["dgrl.preprocessing"]


def test_openvino_agrees(model: Path, exported: dict[str, Path]) -> None:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(str(exported["lr"]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    sample = named_generator("openvino").integers(0, 256, (3, 64, 32, 3), np.uint8)
    inputs = ((sample / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    np.testing.assert_allclose(compiled(inputs)[0], load_embedder(model).embed(list(sample), "lr"), atol=1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_an_openvino_export_is_read_again(model: Path, tmp_path: Path, half: bool) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "network.xml"
    assert export_openvino(model, path, "lr", half=half) >= 0.9999
    assert sorted(file.name for file in tmp_path.iterdir()) == ["network.bin", "network.xml"]
    sample = images()[:200]
    found, expected = (load_embedder(each).embed(sample, "lr") for each in (path, model))
    assert (found.astype(float) * expected).sum(axis=1).min() >= 0.9999
    tensors = sum(each.numel() for each in load_file(model).values())
    assert path.with_suffix(".bin").stat().st_size < (2.2 if half else 4.4) * tensors


def test_the_file_is_valid_and_tells_nothing_of_this_machine(exported: dict[str, Path]) -> None:
    for file in exported.values():
        network = onnx.load(file)
        onnx.checker.check_model(network, full_check=True)
        assert {each.domain: each.version for each in network.opset_import}[""] >= 17
        assert network.graph.input[0].type.tensor_type.shape.dim[0].dim_param
        assert str(Path(__file__).parents[1]).encode() not in file.read_bytes()
        assert b"site-packages" not in file.read_bytes()


def test_the_command(model: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline", "export", *arguments]
        return subprocess.run(command, text=True, capture_output=True, check=False)

    done = run(str(model), "--out", str(tmp_path / "model.onnx"))
    assert done.returncode == 0, done.stderr
    assert "cosine to PyTorch at least" in " ".join(done.stderr.split())
    assert len(done.stderr.splitlines()) < 5
    assert list(tmp_path.iterdir()) == [tmp_path / "model.onnx"]
    done = run(str(tmp_path / "gone.safetensors"), "--out", str(tmp_path / "other.onnx"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "does not exist" in done.stderr


def test_another_suffix_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not end in \.onnx"):
        export_onnx(model, tmp_path / "model.bin")
    with pytest.raises(InputError, match=r"does not end in \.xml"):
        export_openvino(model, tmp_path / "model.bin")
