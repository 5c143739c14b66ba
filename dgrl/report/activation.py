"""Where the main branch looks: the energy of its last feature map."""

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dgrl.images import Image
from dgrl.model.inputs import normalise
from dgrl.model.network import DGRL, Stream

OPACITY = 0.5  # of the colours over an image


def activation_maps(model: DGRL, images: Tensor, stream: Stream) -> npt.NDArray[np.float32]:
    """The squares of layer4's output summed over its channels, each map stretched to 0..1.

    Args:
        model: in evaluation mode.
        images: [N, 3, H, W], uint8, of the network's size.
        stream: which stem they go through.

    Returns:
        [N, h, w] float32.
    """
    maps: list[Tensor] = []
    hook = model.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output))
    device = next(model.parameters()).device
    try:
        with torch.inference_mode():
            for image in images:
                model.embed(normalise(image[None].to(device)), stream)
    finally:
        hook.remove()
    energy = torch.cat(maps).float().square().sum(dim=1)
    energy -= energy.amin(dim=(1, 2), keepdim=True)
    energy /= energy.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    return energy.cpu().numpy()


def overlay(image: Image, energy: npt.NDArray[np.float32]) -> Image:
    """``image`` [H, W, 3] under the colours of a map [h, w]: blue is 0, red is 1."""
    height, width = image.shape[:2]
    larger = cv2.resize(energy, (width, height), interpolation=cv2.INTER_CUBIC)
    colors = cv2.applyColorMap((255 * np.clip(larger, 0, 1)).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    mixed = (1 - OPACITY) * image + OPACITY * colors
    return mixed.astype(np.uint8)
