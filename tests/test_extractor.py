"""The extractor beside the network itself, and the same bytes whatever the number of processes."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dgrl.errors import InputError
from dgrl.extractor import Extractor
from dgrl.model.inputs import MEAN, STD
from dgrl.model.network import DGRL, Stream
from dgrl.model.params import ModelParams
from dgrl.random import named_generator

HEIGHT, WIDTH, BATCH = 64, 32, 16
COUNT = 2 * BATCH + 1  # the last batch is one image: another kernel than that of a full one


@pytest.fixture(scope="module")
def model() -> DGRL:
    torch.manual_seed(0)
    params = ModelParams(
        backbone="resnet18", weights="none", height=HEIGHT, width=WIDTH, dimension=32, groups=4
    )
    return DGRL(params, persons=3).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    pixels = named_generator("extractor").integers(0, 256, (COUNT, 3, HEIGHT, WIDTH), np.uint8)
    return torch.from_numpy(pixels)


def extractor(model: DGRL, workers: int | None = None, flip: bool = False) -> Extractor:
    return Extractor(model, HEIGHT, WIDTH, flip=flip, batch=BATCH, workers=workers)


@pytest.mark.parametrize("stream", ["hr", "sr"])
@pytest.mark.parametrize("flip", [False, True])
def test_embeddings_are_those_of_the_network(model: DGRL, images: Tensor, stream: Stream, flip: bool) -> None:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    normalised = (images / 255 - mean) / std
    with torch.inference_mode():
        expected = model.embed(normalised, stream)
        if flip:
            expected = expected + model.embed(normalised.flip(3), stream)
    expected = expected / expected.norm(dim=1, keepdim=True)
    embeddings = extractor(model, flip=flip).embed_tensor(images, stream)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
def test_bytes_do_not_depend_on_the_number_of_processes(
    model: DGRL, images: Tensor, tmp_path: Path, flip: bool
) -> None:
    np.save(tmp_path / "images.npy", images.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="c"))
    one = extractor(model, 1, flip).embed_tensor(images, "sr")
    assert one.shape == (COUNT, 32)
    for workers in (2, 3):
        assert extractor(model, workers, flip).embed_tensor(mapped, "sr").tobytes() == one.tobytes()


def test_images_of_any_size_are_resized(model: DGRL, images: Tensor) -> None:
    arrays = images[:3].permute(0, 2, 3, 1).numpy()
    larger = [image.repeat(2, axis=0).repeat(2, axis=1) for image in arrays]  # area averages undo it
    expected = extractor(model).embed_tensor(images[:3], "hr")
    np.testing.assert_allclose(extractor(model, 2).embed(larger, "hr"), expected, atol=1e-6)


def test_another_process_can_be_given_an_extractor(model: DGRL, images: Tensor) -> None:
    copy = pickle.loads(pickle.dumps(extractor(model, 1, flip=True)))
    assert (
        copy.embed_tensor(images, "hr").tobytes()
        == extractor(model, 1, True).embed_tensor(images, "hr").tobytes()
    )


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((8, 4, 3), np.float32),  # 0..1, in which all people would look alike
        np.zeros((8, 4, 3), np.uint16),
        np.zeros((8, 4), np.uint8),
        np.zeros((8, 4, 4), np.uint8),
        np.zeros((3, 8, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        "image.png",
    ],
    ids=lambda wrong: str(getattr(wrong, "shape", wrong)),
)
def test_what_is_no_image_is_named_by_its_index(model: DGRL, wrong: Any) -> None:
    good = np.zeros((8, 4, 3), np.uint8)
    with pytest.raises(InputError, match=r"^image 1 is .*give uint8 RGB of shape \[H, W, 3\]"):
        extractor(model).embed([good, wrong], "hr")


def test_no_images_have_no_embeddings(model: DGRL) -> None:
    assert extractor(model).embed([], "sr").shape == (0, 32)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_network_that_tells_nothing_of_an_image_is_refused(
    model: DGRL, images: Tensor, value: float
) -> None:
    broken = copy.deepcopy(model)
    broken.get_parameter("heads.0.neck.weight").data.fill_(value)
    with pytest.raises(InputError, match=r"embedding of image 0 has the norm (0\.0|nan).*learning_rate"):
        extractor(broken).embed_tensor(images, "sr")
