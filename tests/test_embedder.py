"""The front door: images of every kind give the same embeddings; what is low-resolution is restored."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from fake_network import FakeNetwork
from safetensors.numpy import load_file
from small_images import RCAN, smooth_image, write_persons
from small_network import write_network, write_whitening
from test_archive import unprivileged

from dgrl import Embedder
from dgrl.embedders.embedder import image_files
from dgrl.errors import InputError
from dgrl.images import encode_png
from dgrl.superres.pretrain import pretrain, publish_nothing
from dgrl.superres.upscale import load_rcan

IMAGE = smooth_image("embedder", width=48, height=96)
LOW: Any = cv2.resize(IMAGE, (12, 24), interpolation=cv2.INTER_AREA)


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images/inner").mkdir(parents=True)
    for name, image in (("b.png", IMAGE), ("inner/a.PNG", LOW), ("c.png", IMAGE[:70])):
        (tmp_path / "images" / name).write_bytes(encode_png(image))
    (tmp_path / "images/notes.txt").write_text("no image")
    return tmp_path / "images"


def test_importing_the_package_imports_no_torch() -> None:
    code = "import dgrl, sys; assert 'torch' not in sys.modules; dgrl.Embedder; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def kinds_of(image: Any, folder: Path) -> dict[str, Any]:
    file = folder / "b.png"
    channels_first = torch.from_numpy(image.transpose(2, 0, 1).copy())
    return {
        "path": file,
        "text": str(file),
        "array": image,
        "PIL": PIL.Image.fromarray(image),
        "RGBA": PIL.Image.fromarray(image).convert("RGBA"),
        "tensor": channels_first,
        "float tensor": channels_first.float() / 255,
    }


def test_every_kind_of_image_gives_the_same_embedding(network: FakeNetwork, folder: Path) -> None:
    embedder = Embedder(network)
    kinds = kinds_of(IMAGE, folder)
    expected = network.embed([IMAGE], "hr")
    for kind, image in kinds.items():
        assert embedder.embed(image).tobytes() == expected.tobytes(), kind
    assert embedder.embed(list(kinds.values())).tobytes() == expected.tobytes() * len(kinds)


def test_a_folder_is_its_image_files_sorted(network: FakeNetwork, folder: Path) -> None:
    found = Embedder(network, lr_below=0).embed(folder)
    np.testing.assert_array_equal(found, network.embed([IMAGE, IMAGE[:70], LOW], "hr"))


@pytest.mark.parametrize(
    ("height", "lr_below", "enlarged"),
    [
        (32, None, None),  # half of the network's 64
        (31, None, 62),
        (16, None, 32),
        (15, None, 30),
        (64, 128, 128),  # what the MLR sets make of 128 pixels by 2, 3 and 4
        (42, 128, 126),
        (32, 128, 128),
        (8, None, 32),
        (3, None, 12),  # 4 is the largest factor
        (96, 100, 192),
        (3, 0, None),
    ],
)
def test_an_image_shorter_than_the_threshold_is_restored(
    network: FakeNetwork, height: int, lr_below: int | None, enlarged: int | None
) -> None:
    Embedder(network, lr_below).embed(IMAGE[:height])
    assert network.seen == [
        ((enlarged, 48 * (enlarged // height)), "lr") if enlarged else ((height, 48), "hr")
    ]


def test_a_given_resolution_overrules(network: FakeNetwork) -> None:
    Embedder(network).embed([IMAGE, LOW], "hr")
    assert network.seen == [((96, 48), "hr"), ((24, 12), "hr")]


def test_it_says_what_it_restored(network: FakeNetwork, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Embedder(network).embed([IMAGE, LOW, LOW])
    assert (
        "2 of 3 images are shorter than 32 pixels, so taken for low-resolution and restored by bicubic"
        in (caplog.text)
    )


def test_the_order_is_kept_and_chunks_do_not_matter(
    network: FakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [smooth_image(number, height=16 + 8 * number) for number in range(10)]
    one_by_one = np.concatenate([Embedder(network).embed(image) for image in images])
    monkeypatch.setattr("dgrl.embedders.embedder.CHUNK", 3)
    np.testing.assert_array_equal(Embedder(network).embed(images), one_by_one)


def test_no_images_have_no_embeddings(network: FakeNetwork) -> None:
    assert Embedder(network).embed([]).shape == (0, 96)


def test_the_rcan_of_a_factor_restores(network: FakeNetwork, tmp_path: Path) -> None:
    table, rcan = write_persons(tmp_path / "table"), tmp_path / "rcan"
    pretrain(table, rcan / "x2", 2, RCAN, tmp_path / "work")
    embedder = Embedder(network, rcan=rcan)
    with torch.inference_mode():
        larger = load_rcan(rcan / "x2/rcan.safetensors")(
            torch.from_numpy(LOW / 255.0).float().permute(2, 0, 1)[None]
        )
    expected = larger[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().numpy()
    np.testing.assert_allclose(embedder.restore(LOW), expected, atol=1)
    assert "restored by RCAN" in embedder.describe(["lr"])


def test_a_run_restores_by_its_own_rcan(
    network: FakeNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgrl.embedders.embedder.load_embedder", lambda *_, **__: network)
    table, model = write_persons(tmp_path / "table"), tmp_path / "run/dgrl/model.safetensors"
    assert "bicubic" in Embedder.load(model).describe(["lr"])
    publish_nothing(tmp_path / "run/rcan/x2", "images are restored by bicubic interpolation")
    assert "bicubic" in Embedder.load(model).describe(["lr"])
    pretrain(table, tmp_path / "run/rcan/x2", 2, RCAN, tmp_path / "work")
    own = Embedder.load(model)
    assert "RCAN" in own.describe(["lr"])
    given = Embedder.load(model, rcan=tmp_path / "run/rcan")
    np.testing.assert_array_equal(own.restore(LOW), given.restore(LOW))
    (tmp_path / "run/rcan/x2/rcan.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"rcan\.safetensors"):
        Embedder.load(model)


def test_a_whitening_is_applied_to_each_side(tmp_path: Path) -> None:
    model = write_network(tmp_path / "model.safetensors")
    file = write_whitening(tmp_path / "whitening.safetensors", model, flip=True)
    plain = Embedder.load(model, flip=True).embed([LOW, IMAGE]).astype(float)
    parts = load_file(file)
    means = np.stack([parts["query_mean"], parts["gallery_mean"]])  # LR images are queries
    moved = (plain - means) @ parts["matrix"]
    expected = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    found = Embedder.load(model, flip=True, whitening=file).embed([LOW, IMAGE])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(InputError, match="fitted with flip = True"):
        Embedder.load(model, whitening=file)


def test_a_folder_without_rcan_is_refused(network: FakeNetwork, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no x2/rcan.safetensors"):
        Embedder(network, rcan=tmp_path)


def test_boxes_of_a_frame(network: FakeNetwork) -> None:
    boxes: list[list[float]] = [[4, 8, 30, 90], [-5, -5, 20.4, 300]]
    expected = network.embed([IMAGE[8:90, 4:30], IMAGE[:, :20]], "hr")
    np.testing.assert_array_equal(Embedder(network).embed_boxes(IMAGE, boxes), expected)
    assert Embedder(network).embed_boxes(IMAGE, []).shape == (0, 96)


@pytest.mark.parametrize("box", [[50, 0, 60, 10], [10, 10, 10, 20], [20, 0, 10, 9], [0, 0, np.nan, 9]])
def test_a_box_without_pixels_is_named(network: FakeNetwork, box: Any) -> None:
    with pytest.raises(InputError, match=r"^box 1 is "):
        Embedder(network).embed_boxes(IMAGE, [[0, 0, 9, 9], box])


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((8, 4), np.uint8),
        np.zeros((8, 4, 3), np.float32),
        np.zeros((8, 4, 4), np.uint8),
        torch.full((3, 8, 4), 2.0),
        torch.full((3, 8, 4), torch.nan),
        torch.zeros(1, 3, 8, 4, dtype=torch.uint8),
        5,
        PIL.Image.fromarray(np.full((8, 4), 40_000, np.uint16)),  # which PIL would cut off at 255
        PIL.Image.fromarray(np.full((8, 4), 0.5, np.float32)),
    ],
    ids=lambda wrong: f"{type(wrong).__name__} {getattr(wrong, 'shape', getattr(wrong, 'mode', wrong))}",
)
def test_what_is_no_image_is_named(network: FakeNetwork, wrong: Any) -> None:
    with pytest.raises(InputError, match=r"^image 1 is .*; give a path"):
        Embedder(network).embed([IMAGE, wrong])


def test_files_that_are_no_images_are_named(network: FakeNetwork, folder: Path, tmp_path: Path) -> None:
    for path, said in (
        (folder / "gone.png", "gone.png cannot be read"),
        (folder / "notes.txt", "notes.txt is not a readable image"),
        (tmp_path / "empty", "holds no image file"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=said):
            Embedder(network).embed(path)


@pytest.mark.parametrize(
    "boxes", [[[0, 0, 9, 9, 0.9, 0], [0, 0, 8, 8, 0.8, 0]], [0, 0, 9, 9], [[0, 0], [9, 9]]]
)
def test_boxes_of_another_shape_are_refused(network: FakeNetwork, boxes: list[Any]) -> None:
    """Detectors give confidence and class beside them: six numbers."""
    with pytest.raises(InputError, match=r"give \[N, 4\]: left, top, right, bottom"):
        Embedder(network).embed_boxes(IMAGE, boxes)


def test_a_tensor_of_any_float(network: FakeNetwork) -> None:
    tensor = torch.from_numpy(IMAGE.transpose(2, 0, 1).copy()) / 255
    expected = Embedder(network).embed([tensor])
    for kind in (torch.float64, torch.float16, torch.bfloat16):
        np.testing.assert_allclose(Embedder(network).embed([tensor.to(kind)]), expected, atol=0.02)


def test_no_folder_or_link_of_a_folder_is_left_out_in_silence(folder: Path) -> None:
    (folder / ".hidden").mkdir()
    (folder / ".hidden/d.png").write_text("no image")
    assert [path.name for path in image_files(folder)] == ["b.png", "c.png", "a.PNG"]
    for target in ("inner", "nowhere"):
        (folder / "link").symlink_to(target)
        with pytest.raises(InputError, match="link' is a link to a folder or to nothing"):
            image_files(folder)
        (folder / "link").unlink()
    with unprivileged() as home:
        (home / "inner").mkdir()
        (home / "inner").chmod(0)
        with pytest.raises(InputError, match=r"inner cannot be read \(Permission denied\); give yourself"):
            image_files(home)
        (home / "inner").chmod(0o700)
