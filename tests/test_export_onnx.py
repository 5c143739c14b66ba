"""An ONNX file beside PyTorch, as other programs read it."""

from pathlib import Path

import numpy as np
import pytest
from small_network import VIPER, random_images, viper, write_network, write_rcan, write_whitening

from dgrl import Embedder
from dgrl.embedders.catalog import load_embedder
from dgrl.embedders.protocol import Resolution
from dgrl.errors import InputError
from dgrl.evaluation.ranking import Embeddings, rank
from dgrl.images import Image
from dgrl.random import named_generator
from dgrl.superres.upscale import bicubic

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from dgrl.embedders.export import ExportOptions, Precision  # noqa: E402 (it needs the packages)
from dgrl.embedders.export_onnx import export_onnx  # noqa: E402

pytestmark = pytest.mark.slow
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
RESOLUTIONS: tuple[Resolution, ...] = ("hr", "lr")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def exported(model: Path) -> dict[str, Path]:
    files: dict[str, Path] = {each: model.with_name(f"{each}.onnx") for each in RESOLUTIONS}
    for resolution in RESOLUTIONS:
        assert export_onnx(model, files[resolution], ExportOptions(resolution)).least >= 0.9999
    return files


def normalised(images: list[Image]) -> np.ndarray:
    return ((np.stack(images) / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype(float), other.astype(float)
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


@pytest.mark.skipif(not VIPER.exists(), reason="VIPeR is not here")
def test_a_thousand_real_images_have_pytorchs_embeddings_and_ranks(tmp_path: Path) -> None:
    """Both cameras of 500 persons, as queries and gallery, by a network whose batch norms know them."""
    queries, gallery = viper("a", 500), viper("b", 500)
    model = write_network(tmp_path / "model.safetensors", 128, 64, queries[:16] + gallery[:16], dimension=512)
    persons, found = np.arange(500), []
    for network in (model, None):
        sides = []
        for camera, (resolution, images) in enumerate((("lr", queries), ("hr", gallery))):
            file = network
            if file is None:
                file = tmp_path / f"{resolution}.onnx"
                export_onnx(model, file, ExportOptions(resolution))  # type: ignore[arg-type]
            features = load_embedder(file).embed(images, resolution)  # type: ignore[arg-type]
            sides.append(Embeddings(features, persons, np.full(500, camera)))
        found.append(sides)
    (ours, our_gallery), (theirs, their_gallery) = found
    for one, other in ((ours, theirs), (our_gallery, their_gallery)):
        assert cosines(one.features, other.features).min() >= 0.9999
    assert rank(*found[0]).metrics() == rank(*found[1]).metrics()
    similarity = ours.features @ our_gallery.features.T
    orders = [(-(one.features @ other.features.T)).argsort(axis=1, kind="stable") for one, other in found]
    ordered = [np.take_along_axis(similarity, order, axis=1) for order in orders]
    np.testing.assert_allclose(ordered[0], ordered[1], atol=1e-5)  # the same order, but for ties


def test_the_stems_differ(exported: dict[str, Path]) -> None:
    one, other = (load_embedder(exported[each]).embed(random_images(20), "hr") for each in RESOLUTIONS)
    assert cosines(one, other).min() < 0.999


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_other_programs_read_it(model: Path, exported: dict[str, Path], batch: int) -> None:
    """By its own names and shapes, with the normalisation that its metadata state."""
    sample = list(named_generator("batch", batch).integers(0, 256, (batch, 64, 32, 3), np.uint8))
    session = onnxruntime.InferenceSession(exported["hr"])
    (found,) = session.run(["embeddings"], {"images": normalised(sample)})
    np.testing.assert_allclose(found, load_embedder(model).embed(sample, "hr"), atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["dgrl.resolution"] == "hr"
    assert metadata["dgrl.sr"] == metadata["dgrl.whitening_sha256"] == "none"
    assert '"rgb"' in metadata["dgrl.preprocessing"]


def test_the_file_is_valid_and_tells_nothing_of_this_machine(exported: dict[str, Path]) -> None:
    for file in exported.values():
        network = onnx.load(file)
        onnx.checker.check_model(network, full_check=True)
        assert str(Path(__file__).parents[1]).encode() not in file.read_bytes()
        assert b"site-packages" not in file.read_bytes()


def test_it_is_what_boxmots_backend_reads(exported: dict[str, Path]) -> None:
    """What ``boxmot/reid/backends/onnx_backend.py`` (25.0) asks of a file, and its exporter's IR version."""
    network = onnx.load(exported["hr"])
    assert network.ir_version <= 10
    session = onnxruntime.InferenceSession(exported["hr"], providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert (image.name, image.type) == ("images", "tensor(float)")
    assert image.shape == ["batch", 3, 64, 32]
    features = session.run([session.get_outputs()[0].name], {"images": normalised(random_images(3, 64, 32))})[
        0
    ]
    assert features.shape == (3, 32)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_whitening_and_mirror_image_are_inside(model: Path, tmp_path: Path, resolution: Resolution) -> None:
    whitening = write_whitening(tmp_path / "whitening.safetensors", model, flip=True)
    options = ExportOptions(resolution, flip=True, whitening=whitening)
    export_onnx(model, tmp_path / "whitened.onnx", options)
    found = load_embedder(tmp_path / "whitened.onnx").embed(random_images(20), resolution)
    expected = load_embedder(model, flip=True, whitening=whitening).embed(random_images(20), resolution)
    assert cosines(found, expected).min() >= 0.9999
    assert cosines(found, load_embedder(model).embed(random_images(20), resolution)).max() < 0.999


@pytest.mark.parametrize(("factor", "by_rcan"), [(2, True), (3, True), (2, False), (4, False)])
def test_restoring_is_inside(model: Path, tmp_path: Path, factor: int, by_rcan: bool) -> None:
    """LR images of any size: the embeddings are those of images that were restored before."""
    rcan = write_rcan(tmp_path / "rcan", factor) if by_rcan else None
    file = tmp_path / "query.onnx"
    export_onnx(model, file, ExportOptions("lr", sr=factor, rcan=rcan))
    session = onnxruntime.InferenceSession(file)
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    embedder = Embedder.load(model, rcan=rcan)
    for height, width in ((64 // factor, 32 // factor), (12, 7)):
        sample = random_images(3, height // 4 * 8, 24)
        sample = [np.ascontiguousarray(image[:height, :width]) for image in sample]
        inputs = np.stack(sample).transpose(0, 3, 1, 2).astype(np.float32)
        (found,) = session.run(None, {"images": inputs})
        restored = [embedder.restore(image) if by_rcan else bicubic(image, factor) for image in sample]
        assert cosines(found, load_embedder(model).embed(restored, "lr")).min() >= 0.9999
    assert (
        session.get_modelmeta().custom_metadata_map["dgrl.sr"]
        == f"{'rcan' if by_rcan else 'bicubic'} x{factor}"
    )
    with pytest.raises(InputError, match=r"query\.onnx restores LR images itself"):
        load_embedder(file)


@pytest.mark.parametrize(("precision", "share", "least"), [("float16", 0.55, 0.999), ("int8", 0.4, 0.9)])
def test_a_lower_precision_is_smaller_and_says_what_it_loses(
    model: Path, exported: dict[str, Path], tmp_path: Path, precision: Precision, share: float, least: float
) -> None:
    images = random_images(300)
    file = tmp_path / "small.onnx"
    said = export_onnx(model, file, ExportOptions(precision=precision), images)
    held = images[128:] if precision == "int8" else images
    found, expected = (load_embedder(each).embed(held, "hr") for each in (file, model))
    agreement = cosines(found, expected)
    assert (said.least, said.mean) == pytest.approx((agreement.min(), agreement.mean()), abs=1e-4)
    assert least <= said.least < 0.999999
    assert said.images == len(held)
    assert file.stat().st_size < share * exported["hr"].stat().st_size


def test_what_cannot_be_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.onnx"
    with pytest.raises(InputError, match=r"does not end in \.onnx"):
        export_onnx(model, tmp_path / "model.bin")
    with pytest.raises(InputError, match="give --resolution lr with --sr"):
        ExportOptions("hr", sr=2)
    with pytest.raises(InputError, match="--sr 5 is no factor"):
        ExportOptions("lr", sr=5)
    with pytest.raises(InputError, match="give --sr 2, 3 or 4"):
        ExportOptions("lr", rcan=tmp_path)
    with pytest.raises(InputError, match=r"x4/rcan\.safetensors does not exist"):
        export_onnx(model, file, ExportOptions("lr", sr=4, rcan=tmp_path))
    with pytest.raises(InputError, match="give them by --images"):
        export_onnx(model, file, ExportOptions(precision="int8"), random_images(200))
    whitening = write_whitening(tmp_path / "whitening.safetensors", model, flip=True)
    with pytest.raises(InputError, match="fitted with flip = True"):
        export_onnx(model, file, ExportOptions(whitening=whitening))
    monkeypatch.setattr("dgrl.embedders.export.LEAST", {"float32": 1.1})
    with pytest.raises(InputError, match="cosine of only"):
        export_onnx(model, file)
    assert not file.exists()
