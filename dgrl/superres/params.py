"""The sections ``rcan`` and ``sr``; without torch, which takes seconds to import."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from dgrl.config import IntTuple, Section

LESS_MEMORY = "lower rcan.batch or rcan.patch, or free memory and run again: it resumes"


class RcanParams(Section):
    """RCAN's architecture and training.

    The defaults are basicsr's option file for RCAN, but for the patch, which must fit into a pedestrian. A
    small network on a small budget wants another regime: a patch of 24, a learning rate of 3e-3 to 5e-3 and
    an average over the last fiftieth of the iterations.
    """

    features: int = Field(64, ge=16)  # the channel attention squeezes them to a sixteenth
    groups: int = Field(10, ge=1)
    blocks: int = Field(20, ge=1)
    iterations: int = Field(300_000, ge=1, le=1_000_000)  # basicsr's loop may end before a higher number
    batch: int = Field(16, ge=1)
    patch: int = Field(48, ge=12)  # HR pixels; SSIM's window is 11
    learning_rate: float = Field(1e-4, gt=0)
    milestones: Annotated[tuple[float, ...], Strict(False)] = (2 / 3,)  # fractions of the iterations
    warmup: int = Field(0, ge=0)  # iterations of linear rise; basicsr stops one step short of the rate
    ema_decay: float = Field(0.999, ge=0, lt=1)  # averages 1 / (1 - decay) iterations; 0 = off
    val_fraction: float = Field(0.05, gt=0, lt=1)  # of the training persons
    scales: IntTuple = (2, 3, 4)
    seed: int = Field(0, ge=0)
    weights: str | None = None  # folder of pretrained RCANs, x2/rcan.safetensors and so on; null: train

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.scales or any(scale not in (2, 3, 4, 8) for scale in self.scales):
            raise ValueError(f"scales must be some of 2, 3, 4 and 8, not {self.scales}")
        if self.patch % math.lcm(*self.scales):
            raise ValueError(f"patch must be divisible by every scale of {self.scales}, not {self.patch}")
        if any(not 0 < fraction < 1 for fraction in self.milestones):
            raise ValueError(f"milestones must be fractions between 0 and 1, not {self.milestones}")
        if self.warmup >= min(self.milestones, default=1) * self.iterations:
            raise ValueError(
                f"warmup must end before the first milestone, not after {self.warmup} iterations"
            )
        return self


class SrParams(Section):
    """How LR images are brought to HR size."""

    method: Literal["rcan", "bicubic", "none"] = "rcan"
    batch: int = Field(64, ge=1)  # images at once on a GPU; a CPU takes them one by one
