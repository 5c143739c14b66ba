"""The sections ``model`` and ``loss``; a module without torch, which takes seconds to import."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from dgrl.config import Section

BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "efficientnet_lite0"]
WEIGHTS_NAMES = ("imagenet", "none")
WEIGHTS_FILES = (".safetensors", ".pth", ".pt", ".pth.tar")
Weight = Annotated[float, Field(ge=0)]
WrtForm = Literal["stable", "reference"]
Size = Annotated[int, Field(ge=32, multiple_of=16)]


class ModelParams(Section):
    """The section ``model``. The defaults are the paper's (IV-C); (d) marks what it leaves open."""

    backbone: BackboneName = "resnet50"
    weights: str = "imagenet"  # (d) to start from: imagenet, none (random), or a file
    height: Size = 256  # pixels
    width: Size = 128  # pixels
    last_stride: Literal[1, 2] = 1  # (d) stride of layer4
    restormer: bool = True  # Table III: the Restormer block of each stem
    heads: Annotated[int, Field(ge=1)] = 4  # attention heads of MDTA
    expansion: Annotated[float, Field(gt=0, le=64)] = 2.66  # hidden width of GDFN (d: Restormer's)
    non_local: bool = True  # Table III
    non_local_width: Annotated[int, Field(ge=1)] | None = None  # (d) inner; null: half of the channels
    side_branches: bool = True  # III-C
    side: Literal["copy", "dhm"] = "copy"  # (d) of the main branch's blocks, or as in the code of DHM
    side_start: Literal["copied", "random"] = "copied"  # (d) the main branch's weights where they fit, or not
    galn: bool = True  # Table III
    groups: Annotated[int, Field(ge=1)] = 32  # K of GALN
    dimension: Annotated[int, Field(ge=1)] = 512  # (d) of F
    group_hidden: Annotated[int, Field(ge=1)] = 256  # (d) hidden width of the group probability network

    @field_validator("weights")
    @classmethod
    def _name_or_file(cls, weights: str) -> str:
        if weights not in WEIGHTS_NAMES and not weights.endswith(WEIGHTS_FILES):
            raise ValueError(
                f"allowed: {', '.join(WEIGHTS_NAMES)}, or a file that ends in {', '.join(WEIGHTS_FILES)}"
            )
        return weights

    @model_validator(mode="after")
    def _check_side(self) -> Self:
        if self.side == "dhm" and not self.backbone.startswith("resnet"):
            raise ValueError(f"side = 'dhm' is made of a ResNet's blocks; set it to copy for {self.backbone}")
        return self

    @property
    def weights_file(self) -> Path | None:
        """The file that ``weights`` names, whether it exists or not; None if it names none."""
        return None if self.weights in WEIGHTS_NAMES else Path(self.weights)


class LossParams(Section):
    """The section ``loss``; the defaults are the paper's (IV-C), (d) marks what it leaves open."""

    gamma: Weight = 5.0  # of L1, eq. 13
    alpha1: Weight = 0.5  # ID of the side branch from stage 2, eq. 7
    beta1: Weight = 0.5  # ID of the side branch from stage 3, eq. 7
    alpha2: Weight = 0.5  # WRT of the side branch from stage 2, eq. 9
    beta2: Weight = 0.5  # WRT of the side branch from stage 3, eq. 9
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1  # xi of eq. 6
    wrt: bool = True  # Table II
    wrt_form: WrtForm = "stable"  # (d) reference: AGW's public code
    l1: bool = True  # Table II
    kl: Weight = 1.0  # of KL, Table II; 0: off
    kl_temperature: Annotated[float, Field(gt=0)] = 1.0  # (d) of the probabilities of eq. 10
    kl_detach: bool = True  # (d) no gradient through the target of eq. 11, as in DHM
