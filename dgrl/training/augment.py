"""Batched augmentation on the device, with the same draw for both images of a pair (d)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgrl.model.inputs import normalise
from dgrl.parallel.device import to_device
from dgrl.training.params import AugmentParams

ERASE_AREA = (0.02, 0.4)  # of the image: Zhong et al., Random Erasing Data Augmentation, AAAI 2020
ERASE_ASPECT = (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Draw:
    """What happens to each of B pairs."""

    flip: Tensor  # [B] bool
    offset: Tensor  # [B, 2] int64: top and left of the crop in the padded image
    erase: Tensor  # [B, 4] int64: top, bottom, left, right; empty where nothing is erased

    def __getitem__(self, pairs: slice) -> "Draw":
        return Draw(self.flip[pairs], self.offset[pairs], self.erase[pairs])


def draw(params: AugmentParams, count: int, height: int, width: int, generator: torch.Generator) -> Draw:
    """Draw for ``count`` pairs of ``height`` x ``width`` images.

    A rectangle to erase is clipped to the image rather than drawn again until it fits.
    """

    def uniform(low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    flip = uniform() < params.flip
    offset = torch.randint(0, 2 * params.pad + 1, (count, 2), generator=generator)
    area = uniform(*ERASE_AREA) * height * width
    low, high = torch.tensor(ERASE_ASPECT).log().tolist()
    aspect = uniform(low, high).exp()
    tall = (area * aspect).sqrt().clamp(1, height).long()
    wide = (area / aspect).sqrt().clamp(1, width).long()
    top = (uniform() * (height - tall + 1)).long()
    left = (uniform() * (width - wide + 1)).long()
    erased = uniform() < params.erase
    bottom, right = top + tall * erased, left + wide * erased
    return Draw(flip, offset, torch.stack([top, bottom, left, right], dim=1))


def augment(images: Tensor, pad: int, drawn: Draw) -> Tensor:
    """Flip, pad and crop, normalise, erase.

    Args:
        images: [B, 3, H, W], uint8.
        pad: pixels of border that ``drawn`` was drawn with.
        drawn: one row an image.

    Returns:
        [B, 3, H, W], float32, channels_last; erased pixels are 0, the mean colour.
    """
    device = images.device
    height, width = images.shape[2:]
    flip, offset, erase = (to_device(x, device) for x in (drawn.flip, drawn.offset, drawn.erase))
    columns = torch.arange(width, device=device)
    columns = torch.where(flip[:, None], width - 1 - columns, columns) + offset[:, 1:]  # [B, W]
    rows = torch.arange(height, device=device) + offset[:, :1]  # [B, H]
    padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)  # [B, H + 2 pad, W + 2 pad, 3]
    batch = torch.arange(len(images), device=device)
    cropped = padded[batch[:, None, None], rows[:, :, None], columns[:, None, :]]  # [B, H, W, 3]
    normalised = normalise(cropped.permute(0, 3, 1, 2))
    return normalised.masked_fill_(_inside(erase, height, width), 0.0)


def _inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Mask [B, 1, H, W] of the pixels inside boxes [B, 4] (top, bottom, left, right)."""
    top, bottom, left, right = boxes[:, :, None].unbind(1)  # each [B, 1]
    rows = torch.arange(height, device=boxes.device)
    columns = torch.arange(width, device=boxes.device)
    in_rows = (rows >= top) & (rows < bottom)  # [B, H]
    in_columns = (columns >= left) & (columns < right)  # [B, W]
    return (in_rows[:, :, None] & in_columns[:, None, :]).unsqueeze(1)
