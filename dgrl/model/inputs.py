"""What a network is fed: normalised images."""

import torch
from torch import Tensor

from dgrl.parallel.device import to_device

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB, as torchvision's weights expect
STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """Images in 0..255 [B, 3, H, W] to float32 with ImageNet's mean and deviation, channels_last."""
    mean, std = (
        to_device(255 * torch.tensor(values), images.device).view(1, 3, 1, 1) for values in (MEAN, STD)
    )
    return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)
