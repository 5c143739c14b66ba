"""Networks of every kind behind one protocol, beside the runtime's own numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import TensorProto, helper

from dgrl.embedders.catalog import load_embedder, parse_model
from dgrl.embedders.external import METADATA
from dgrl.embedders.preprocessing import choose
from dgrl.errors import InputError
from dgrl.extractor import Extractor
from dgrl.image_bank import resize
from dgrl.model.network import DGRL
from dgrl.model.params import ModelParams
from dgrl.random import named_generator
from dgrl.weights.published import save_model

BASELINES = Path(__file__).parents[2] / "shared/data/baselines"
SIZE = (64, 32)


def images(count: int = 5) -> list[npt.NDArray[np.uint8]]:
    rng = named_generator("embedders")
    return [rng.integers(0, 256, (30 + i, 20, 3), np.uint8) for i in range(count)]


def channel_means(path: Path, shape: list[Any], output: list[int] | None = None) -> Path:
    """A network whose embedding of an image is the mean of each of its channels."""
    nodes = [helper.make_node("GlobalAveragePool", ["images"], ["pooled"])]
    if output:
        target = helper.make_tensor("target", TensorProto.INT64, [len(output)], output)
        nodes.append(helper.make_node("Reshape", ["pooled", "target"], ["embedding"]))
    last = nodes[-1].output[0]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        [target] if output else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("batch", ["N", 1])
def test_an_onnx_network_sees_the_images_as_it_wants_them(tmp_path: Path, batch: object) -> None:
    path = channel_means(tmp_path / "means.onnx", [batch, 3, *SIZE])
    given = images()
    resized = [resize(image, *SIZE).astype(np.float64) for image in given]
    means = np.array([image.mean(axis=(0, 1)) for image in resized])
    for name, expected in {
        "rgb": means,
        "bgr": means[:, ::-1],
        "imagenet": (means / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    }.items():
        embedder = load_embedder(path, name)
        found = embedder.embed(given, "hr")
        np.testing.assert_allclose(
            found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5
        )
        assert embedder.embed([], "lr").shape == (0, 3)
    assert (embedder.height, embedder.width) == SIZE


def test_the_preprocessing_comes_from_the_metadata_or_the_file_beside(tmp_path: Path) -> None:
    path = channel_means(tmp_path / "means.onnx", ["N", 3, "H", "W"])
    with pytest.raises(InputError, match=r"means\.yaml beside it"):
        load_embedder(path)
    beside = tmp_path / "means.yaml"
    beside.write_text("colour: bgr\n")
    with pytest.raises(InputError, match="images of any size"):
        load_embedder(path)
    beside.write_text("colour: bgr\nheight: 64\nwidth: 32\n")
    expected = load_embedder(channel_means(tmp_path / "fixed.onnx", ["N", 3, *SIZE]), "bgr")
    np.testing.assert_array_equal(load_embedder(path).embed(images(), "hr"), expected.embed(images(), "hr"))
    beside.write_text("colour: gray\n")
    with pytest.raises(InputError, match=r"means\.yaml: colour = 'gray'"):
        load_embedder(path)
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps({"colour": "bgr", "height": 64, "width": 32})
    onnx.save(model, path)
    np.testing.assert_array_equal(load_embedder(path).embed(images(), "hr"), expected.embed(images(), "hr"))


@pytest.mark.parametrize(
    ("shape", "output", "message"),
    [
        (["N", 1, 64, 32], None, "not \\[N, 3, H, W\\]"),
        (["N", 3, 64, 32], [-1], "not one embedding"),
        (["N", 3, 64], None, "not \\[N, 3, H, W\\]"),
    ],
)
def test_a_network_of_another_kind_is_one_line(
    tmp_path: Path, shape: list[Any], output: list[int] | None, message: str
) -> None:
    path = channel_means(tmp_path / "means.onnx", shape, output)
    with pytest.raises(InputError, match=message):
        load_embedder(path, "rgb")


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html></html>", b"\0" * 100])
def test_a_damaged_file_is_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"network{suffix}"
    path.write_bytes(content)
    path.with_suffix(".bin").write_bytes(content)
    with pytest.raises(InputError, match="network"):
        load_embedder(path)


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.safetensors, \.onnx, \.xml"):
        load_embedder(tmp_path / "network.pth")
    with pytest.raises(InputError, match="does not exist"):
        load_embedder(tmp_path / "network.onnx")
    assert parse_model("a/b.onnx@rgb") == (Path("a/b.onnx"), "rgb")
    assert parse_model("a/b.onnx") == (Path("a/b.onnx"), None)


def test_an_image_that_a_network_embeds_as_zeros_is_named(tmp_path: Path) -> None:
    network = load_embedder(channel_means(tmp_path / "means.onnx", ["N", 3, 32, 16]), "rgb")
    black = np.zeros((32, 16, 3), np.uint8)
    with pytest.raises(InputError, match=r"embedding of image 2 has the norm 0\.0; check the network"):
        network.embed([*images(2), black, black], "hr")


def test_a_trained_network_has_a_stem_for_each_resolution(tmp_path: Path) -> None:
    params = ModelParams(backbone="resnet18", weights="none", height=64, width=32, dimension=16, groups=4)
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    save_model(path, DGRL(params, 3), params, 3, ["viper/007"])
    embedder, extractor = load_embedder(path), Extractor.load(path)
    np.testing.assert_array_equal(embedder.embed(images(), "lr"), extractor.embed(images(), "sr"))
    np.testing.assert_array_equal(embedder.embed(images(), "hr"), extractor.embed(images(), "hr"))
    assert embedder.trained_on == {"viper/007"}
    with_mirror_image = load_embedder(path, flip=True)
    assert with_mirror_image.digest != embedder.digest  # its embeddings are others
    assert (with_mirror_image.embed(images(), "hr") != embedder.embed(images(), "hr")).any()


@pytest.mark.skipif(not BASELINES.is_dir(), reason="public networks are not here")
def test_public_networks_give_the_runtimes_own_numbers() -> None:
    image = named_generator("embedders").integers(0, 256, (256, 128, 3), np.uint8)
    path = BASELINES / "osnet_x0_25_msmt17.onnx"
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    batch = ((image / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    session = onnxruntime.InferenceSession(str(path))
    expected = session.run(None, {"input": batch})[0] + 0.0
    mirrored = session.run(None, {"input": batch[..., ::-1].copy()})[0]
    both = expected / np.linalg.norm(expected) + mirrored / np.linalg.norm(mirrored)
    for flip, wanted in ((False, expected), (True, both)):
        found = load_embedder(path, "imagenet", flip=flip).embed([image], "lr")
        np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-5)
    path = BASELINES / "person-reidentification-retail-0287.xml"
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = compiled(image[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32))[0]
    found = load_embedder(path).embed([image], "lr")  # BGR, as its own metadata says
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-4)


@pytest.mark.skipif(not BASELINES.is_dir(), reason="public networks are not here")
def test_an_openvino_network_is_known_by_its_weights_too(tmp_path: Path) -> None:
    name = "person-reidentification-retail-0287"
    for suffix in (".xml", ".bin"):
        (tmp_path / f"{name}{suffix}").write_bytes((BASELINES / f"{name}{suffix}").read_bytes())
    path = tmp_path / f"{name}.xml"
    before = load_embedder(path).digest
    weights = bytearray(path.with_suffix(".bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    path.with_suffix(".bin").write_bytes(weights)
    assert load_embedder(path).digest != before


def test_openvino_metadata_that_are_no_json_are_one_line(tmp_path: Path) -> None:
    core = openvino.Core()
    network = core.read_model(str(channel_means(tmp_path / "means.onnx", [1, 3, *SIZE])))
    network.set_rt_info("{", METADATA)
    openvino.save_model(network, tmp_path / "means.xml")
    with pytest.raises(InputError, match=r"means\.xml: its metadata dgrl\.preprocessing are no JSON"):
        load_embedder(tmp_path / "means.xml")


@pytest.mark.parametrize(
    ("nodes", "kind", "said"),
    [
        ([helper.make_node("Reshape", ["images", "target"], ["embedding"])], "FLOAT", "does not run"),
        ([helper.make_node("ConstantOfShape", ["target"], ["embedding"])], "FLOAT", "does not run"),
        (
            [
                helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
                helper.make_node("Cast", ["pooled"], ["embedding"], to=TensorProto.STRING),
            ],
            "STRING",
            "its output is .*, not one embedding",
        ),
        (
            [
                helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
                helper.make_node("Cast", ["pooled"], ["embedding"], to=TensorProto.INT64),
            ],
            "INT64",
            "its output is int64 .*, not one embedding",
        ),
    ],
)
def test_an_onnx_network_that_does_not_embed(tmp_path: Path, nodes: list[Any], kind: str, said: str) -> None:
    images_in = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, *SIZE])
    out = helper.make_tensor_value_info("embedding", TensorProto.DataType.Value(kind), None)
    target = helper.make_tensor("target", TensorProto.INT64, [2], [2**22, 2**22])
    graph = helper.make_graph(nodes, "odd", [images_in], [out], [target])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "odd.onnx",
    )
    with pytest.raises(InputError, match=said):
        load_embedder(tmp_path / "odd.onnx", "rgb")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour: rgb\nstd: [0, 1, 1]\n", "std.0 = 0"),
        ("colour: rgb\nstd: [-1, 1, 1]\n", "std.0 = -1"),
        ("colour: rgb\nmean: [.nan, 1, 1]\n", "mean.0 = nan"),
        ("colour: " + "[" * 20_000, "no readable YAML"),
        ("colour: rgb\ncolour: bgr\n", "no readable YAML"),
    ],
)
def test_a_wrong_preprocessing_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        choose(tmp_path / "m.onnx", None, None)
    assert len(str(caught.value)) < 500


def test_numbers_of_a_preprocessing_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("colour: rgb\nstd: [1e2, 1e-05, 010]\n")
    assert choose(tmp_path / "m.onnx", None, None).std == (100.0, 1e-5, 10.0)
