"""What super-resolution restored: LR, bicubic, SR and HR side by side."""

from dataclasses import dataclass

import cv2

from dgrl.image_bank import resize
from dgrl.images import Image


@dataclass(frozen=True, slots=True)
class Panel:
    """An image and, where it is a restored one, its PSNR in dB over RGB."""

    title: str
    image: Image
    psnr: float | None = None


def restoration(captured: Image, restored: Image, original: Image, factor: int, method: str) -> list[Panel]:
    """LR, bicubic interpolation, SR and HR; the PSNR of the second and third.

    The HR image is shrunk by pixel area to the SR image's size, where that is less than a factor smaller.

    Args:
        captured: the LR image [h, w, 3].
        restored: what the network was fed: [factor * h, factor * w, 3], or the LR image itself.
        original: the image that was down-sampled.
        factor: of the down-sampling.
        method: what restored it; ``bicubic`` and ``none`` have no panel of their own.
    """
    height, width = (factor * side for side in captured.shape[:2])
    original = resize(original, height, width)
    bicubic = resize(captured, height, width)
    panels = [Panel("LR", captured), Panel("bicubic", bicubic, psnr(bicubic, original))]
    if restored.shape == original.shape and method not in ("bicubic", "none"):
        panels.append(Panel(f"SR, {method.upper()}", restored, psnr(restored, original)))
    return [*panels, Panel("HR", original)]


def psnr(image: Image, original: Image) -> float:
    """Peak signal-to-noise ratio in dB over RGB; infinite for equal images."""
    return float(cv2.PSNR(image, original))
