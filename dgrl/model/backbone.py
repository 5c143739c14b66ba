"""The backbones, cut into the pieces that the network uses (paper III-A and III-C)."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torchvision
from torch import nn

from dgrl.extras import package
from dgrl.model.nonlocal_block import NonLocalBlock
from dgrl.model.params import BackboneName, ModelParams

NON_LOCAL_LAYER2, NON_LOCAL_LAYER3 = 2, 3  # blocks that get a non-local block behind them, as in AGW
RESNET_STEM = ("conv1", "bn1", "relu", "maxpool")  # torchvision's names of the stem's parts
LITE0_STEM = ("conv_stem", "bn1", "blocks.0", "blocks.1.0")  # timm's: all that comes before stride 4 and ...
LITE0_LAYERS = (  # ... what is at strides 4, 8, 16 and 32
    ("blocks.1.1",),
    ("blocks.2.0", "blocks.2.1"),
    ("blocks.3.0", "blocks.3.1", "blocks.3.2", "blocks.4.0", "blocks.4.1", "blocks.4.2"),
    ("blocks.5.0", "blocks.5.1", "blocks.5.2", "blocks.5.3", "blocks.6.0"),
)


@dataclass
class Backbone:
    """The parts of a network for images, without its pooling and classifier.

    Attributes:
        stem: what comes before the first block at stride 4, or with it: [B, 3, H, W] -> [B, C, H/4, W/4].
        layers: residual blocks at strides 4, 8, 16 and 32; the first of the last layer has stride 2.
    """

    stem: nn.Sequential
    layers: list[nn.Sequential]


def resnet(name: str) -> Backbone:
    """A ResNet of torchvision."""
    network = torchvision.models.get_model(name)
    layers = [network.layer1, network.layer2, network.layer3, network.layer4]
    return Backbone(_parts(network, RESNET_STEM), layers)


def efficientnet_lite0() -> Backbone:
    """timm's EfficientNet-Lite0 up to its last 320 channels.

    Raises:
        InputError: if timm is not installed.
    """
    timm = package("timm", "lite", "model.backbone = 'efficientnet_lite0'")  # takes seconds
    network = timm.create_model("efficientnet_lite0")
    return Backbone(_parts(network, LITE0_STEM), [_parts(network, names) for names in LITE0_LAYERS])


BACKBONES: dict[BackboneName, Callable[[], Backbone]] = {
    "resnet18": partial(resnet, "resnet18"),
    "resnet34": partial(resnet, "resnet34"),
    "resnet50": partial(resnet, "resnet50"),
    "resnet101": partial(resnet, "resnet101"),
    "resnet152": partial(resnet, "resnet152"),
    "efficientnet_lite0": efficientnet_lite0,
}


def build_backbone(name: BackboneName, last_stride: int) -> Backbone:
    """A backbone with weights of torch's global generator.

    Args:
        name: one of ``BACKBONES``.
        last_stride: stride of the last layer: 2 is the backbone's own, 1 keeps a finer map.

    Raises:
        InputError: if it needs a package that is not installed.
    """
    backbone = BACKBONES[name]()
    set_stride(backbone.layers[3][0], last_stride)
    return backbone


def side_branches(params: ModelParams, main: list[nn.Sequential]) -> tuple[nn.Sequential, nn.Sequential]:
    """The side branches from stage 2 and from stage 3: residual blocks only, "of the same type" (III-C).

    ``copy`` has the blocks of layer3 and layer4, and of layer4. ``dhm`` has other numbers and widths, as the
    public code of Li and Chen, Dynamic Hierarchical Mimicking, CVPR 2020 (github.com/d-li14/DHM): half of
    layer3's blocks and two of layer4's; and as many as layer4, of 1,024 planes.

    Args:
        params: the ``model`` section.
        main: layer1 to layer4 of the main branch.
    """
    _, layer2, layer3, layer4 = main
    if params.side == "copy" and params.side_start == "copied":
        return copy_of(layer3, layer4), copy_of(layer4)
    if params.side == "copy":
        first, second = (build_backbone(params.backbone, params.last_stride).layers for _ in range(2))
        return nn.Sequential(*first[2:]), nn.Sequential(*second[3:])
    block, stride = type(layer4[0]), params.last_stride
    half = _dhm_layer(block, layer2, 256, (len(layer3) + 1) // 2, stride=2)
    side2 = nn.Sequential(half, _dhm_layer(block, half, 512, 2, stride))
    side3 = nn.Sequential(_dhm_layer(block, layer3, 1024, len(layer4), stride))
    if params.side_start == "copied":
        for side, original in ((side2[0], layer3), (side2[1], layer4)):  # nothing of side3 has layer4's width
            side.load_state_dict({name: original.state_dict()[name] for name in side.state_dict()})
    return side2, side3


def _dhm_layer(block: Any, before: nn.Sequential, planes: int, count: int, stride: int) -> nn.Sequential:
    """``count`` of torchvision's residual blocks behind a layer, with the random weights of a ResNet."""
    channels, out = width(before[-1]), planes * block.expansion
    shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    layer = nn.Sequential(
        block(channels, planes, stride, shortcut), *(block(out, planes) for _ in range(count - 1))
    )
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return layer


def with_non_local(layer: nn.Sequential, count: int, inner: int | None) -> nn.Sequential:
    """``layer`` with a ``NonLocalBlock`` behind each of its last ``count`` residual blocks."""
    blocks = list(layer)
    first = max(0, len(blocks) - count)
    parts: list[nn.Module] = []
    for index, block in enumerate(blocks):
        parts.append(block)
        if index >= first:
            parts.append(NonLocalBlock(width(block), inner))
    return nn.Sequential(*parts)


def copy_of(*layers: nn.Sequential) -> nn.Sequential:
    """The layers one after another with parameters of their own, starting at the same values."""
    return nn.Sequential(*(copy.deepcopy(layer) for layer in layers))


def width(module: nn.Module) -> int:
    """Channels of the output of a block or a stem, which are those of its last batch norm."""
    return [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)][-1].num_features


def set_stride(block: nn.Module, stride: int) -> None:
    """Set the stride of a residual block that halves the resolution, in its path and in its shortcut."""
    for module in block.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (stride, stride)


def _parts(network: nn.Module, names: Iterable[str]) -> nn.Sequential:
    return nn.Sequential(*(network.get_submodule(name) for name in names))
