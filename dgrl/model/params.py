"""``model:`` of params.yaml; a module without torch, which takes seconds to import."""

from typing import Annotated, Literal

from pydantic import Field

from dgrl.config import Section

BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
WeightsName = Literal["none", "imagenet"]
Size = Annotated[int, Field(ge=32, multiple_of=16)]


class ModelParams(Section):
    """``model:`` of params.yaml. The defaults are the paper's (IV-C); (d) marks what it leaves open."""

    backbone: BackboneName = "resnet50"
    weights: WeightsName = "imagenet"  # (d)
    height: Size = 256  # pixels
    width: Size = 128  # pixels
    last_stride: Literal[1, 2] = 1  # (d) stride of layer4
    restormer: bool = True  # Table III: the Restormer block of each stem
    heads: Annotated[int, Field(ge=1)] = 4  # attention heads of MDTA
    expansion: Annotated[float, Field(gt=0)] = 2.66  # hidden width of GDFN (d: Restormer's)
    non_local: bool = True  # Table III
    side_branches: bool = True  # III-C
    galn: bool = True  # Table III
    groups: Annotated[int, Field(ge=1)] = 32  # K of GALN
    dimension: Annotated[int, Field(ge=1)] = 512  # (d) of F
    group_hidden: Annotated[int, Field(ge=1)] = 256  # (d) hidden width of the group probability network
