"""Augmentation against slicing with NumPy, one image at a time."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2.functional import normalize

from dgrl.errors import InputError
from dgrl.model.inputs import MEAN, STD, normalise
from dgrl.random import named_generator, named_seed
from dgrl.training.augment import Draw, augment, draw
from dgrl.training.params import AugmentParams

Image = npt.NDArray[np.uint8]


def generator(name: str | int = "") -> torch.Generator:
    return torch.Generator().manual_seed(named_seed("test_augment", name))


def noise(count: int, height: int, width: int) -> Tensor:
    pixels = named_generator("test_augment", "noise").integers(0, 256, (count, 3, height, width), np.uint8)
    return torch.from_numpy(pixels)


def coordinates(count: int, height: int, width: int) -> Tensor:
    """Images whose pixels say where they are: (row + 1, column + 1, image + 1); the border is 0."""
    grid = torch.meshgrid(
        torch.arange(height) + 1, torch.arange(width) + 1, torch.arange(count) + 1, indexing="ij"
    )
    return torch.stack(grid).permute(3, 0, 1, 2).to(torch.uint8)  # [B, 3, H, W]


def denormalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
    return ((images * std + mean) * 255).round()


def slow_augment(image: Image, pad: int, drawn: Draw, row: int) -> npt.NDArray[np.float64]:
    height, width = image.shape[1:]
    top, left = drawn.offset[row].tolist()
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    cropped = padded[:, top : top + height, left : left + width]
    if drawn.flip[row]:
        cropped = cropped[:, :, ::-1]
    mean, std = (np.array(x)[:, None, None] for x in (MEAN, STD))
    out = np.asarray((cropped / 255 - mean) / std, np.float64)
    top, bottom, left, right = drawn.erase[row].tolist()
    out[:, top:bottom, left:right] = 0
    return out


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 4),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    pad=st.integers(0, 5),
)
def test_augment_is_crop_flip_normalise_erase_of_each_image(
    seed: int, count: int, height: int, width: int, pad: int
) -> None:
    images = noise(count, height, width)
    drawn = draw(AugmentParams(pad=pad), count, height, width, generator(seed))
    expected = [slow_augment(image, pad, drawn, row) for row, image in enumerate(images.numpy())]
    np.testing.assert_allclose(augment(images, pad, drawn).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_both_images_of_a_pair_move_alike() -> None:
    hr = coordinates(8, 32, 16)
    sr = 255 - hr
    drawn = draw(AugmentParams(), 8, 32, 16, generator())
    hr_moved, sr_moved = (denormalised(augment(images, 10, drawn)) for images in (hr, sr))
    top, bottom, left, right = (x.view(-1, 1, 1) for x in drawn.erase.unbind(1))
    rows, columns = torch.arange(32)[:, None], torch.arange(16)
    erased = ((rows >= top) & (rows < bottom) & (columns >= left) & (columns < right))[:, None]
    border = (hr_moved == 0).all(dim=1, keepdim=True)
    kept = (~erased & ~border).expand_as(hr_moved)
    assert kept.any()
    assert torch.equal(hr_moved[kept], 255 - sr_moved[kept])
    assert (sr_moved[(border & ~erased).expand_as(hr_moved)] == 0).all()
    assert torch.equal(hr_moved[erased.expand_as(hr_moved)], sr_moved[erased.expand_as(hr_moved)])


def test_each_image_of_a_batch_has_a_draw_of_its_own() -> None:
    drawn = draw(AugmentParams(), 64, 32, 16, generator())
    assert len(torch.unique(drawn.offset, dim=0)) > 32
    assert len(torch.unique(drawn.erase, dim=0)) > 16
    assert drawn.flip.any()
    assert not drawn.flip.all()


# ---- What is drawn ----


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_certain_flips(probability: float) -> None:
    params = AugmentParams(flip=probability, pad=0, erase=0.0)
    images = noise(5, 8, 6)
    moved = augment(images, 0, draw(params, 5, 8, 6, generator()))
    assert torch.equal(moved, normalise(images.flip(3) if probability else images))


def test_flips_and_erasures_come_at_their_rates() -> None:
    count = 4000
    drawn = draw(AugmentParams(flip=0.3, erase=0.7), count, 32, 16, generator())
    deviation = (0.3 * 0.7 / count) ** 0.5
    assert drawn.flip.float().mean().item() == pytest.approx(0.3, abs=4 * deviation)
    top, bottom, left, right = drawn.erase.unbind(1)
    erased = (bottom > top) & (right > left)
    assert erased.float().mean().item() == pytest.approx(0.7, abs=4 * deviation)
    both = (drawn.flip & erased).float().mean().item()
    assert both == pytest.approx(0.21, abs=4 * (0.21 * 0.79 / count) ** 0.5)  # independent of each other


def test_offsets_are_uniform_in_the_border() -> None:
    count, pad = 5000, 2
    offset = draw(AugmentParams(pad=pad), count, 32, 16, generator()).offset
    for axis in (0, 1):
        shares = torch.bincount(offset[:, axis], minlength=5) / count
        assert shares.tolist() == pytest.approx([0.2] * 5, abs=4 * (0.2 * 0.8 / count) ** 0.5)


def test_no_border_no_flip_no_erasure_is_only_normalised() -> None:
    images = noise(4, 8, 6)
    drawn = draw(AugmentParams(flip=0.0, pad=0, erase=0.0), 4, 8, 6, generator())
    assert torch.equal(augment(images, 0, drawn), normalise(images))


def test_erased_rectangles_are_the_drawn_ones() -> None:
    """No pixel of an image normalises to exactly 0, so zeros are erased pixels."""
    drawn = draw(AugmentParams(erase=1.0), 20, 32, 16, generator())
    zeros = (augment(noise(20, 32, 16), 10, drawn) == 0).all(dim=1)
    for mask, (top, bottom, left, right) in zip(zeros, drawn.erase.tolist(), strict=True):
        assert bottom > top
        assert right > left
        assert mask.sum() == (bottom - top) * (right - left)
        assert mask[top:bottom, left:right].all()


def test_rectangles_have_the_areas_aspects_and_places_of_random_erasing() -> None:
    height, width = 256, 128
    top, bottom, left, right = draw(AugmentParams(erase=1.0), 4000, height, width, generator()).erase.unbind(
        1
    )
    tall, wide = bottom - top, right - left
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (bottom <= height).all()
    assert (right <= width).all()
    assert (tall * wide <= 0.4 * height * width).all()
    assert ((tall + 1) * (wide + 1) > 0.02 * height * width).all()  # sides are rounded down
    free = (tall < height) & (wide < width)
    assert (tall + 1 > 0.3 * wide)[free].all()
    assert (wide + 1 > 0.3 * tall)[free].all()
    share = (tall * wide / (height * width))[free]
    assert share.min() < 0.03
    assert share.max() > 0.37
    for low, high, side in ((top, bottom, height), (left, right, width)):
        assert (low == 0).any()
        assert (high == side).any()


def test_a_draw_is_a_function_of_its_generator() -> None:
    first, again, other = (draw(AugmentParams(), 16, 32, 16, generator(name)) for name in ("a", "a", "b"))
    assert all(torch.equal(getattr(first, key), getattr(again, key)) for key in ("flip", "offset", "erase"))
    assert not torch.equal(first.offset, other.offset)
    images = noise(16, 32, 16)
    assert torch.equal(augment(images, 10, first), augment(images, 10, again))


# ---- Normalisation ----


def test_normalise_is_torchvisions() -> None:
    images = noise(2, 9, 7)
    expected = normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(normalise(images), expected, rtol=1e-5, atol=1e-5, check_stride=False)


def test_the_network_gets_float32() -> None:
    images = noise(4, 16, 8)
    drawn = draw(AugmentParams(), 4, 16, 8, generator())
    for out in (normalise(images), augment(images, 10, drawn)):
        assert out.shape == images.shape
        assert out.dtype == torch.float32


def test_the_network_gets_channels_last() -> None:
    drawn = draw(AugmentParams(), 4, 16, 8, generator())
    for out in (normalise(noise(4, 16, 8)), augment(noise(4, 16, 8), 10, drawn)):
        assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("wrong", [{"flip": 1.5}, {"erase": -0.1}, {"pad": -1}, {"pad": 2.5}, {"rotate": 1}])
def test_a_wrong_value_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"augment\.{next(iter(wrong))}"):
        AugmentParams.parse(wrong, "augment")
