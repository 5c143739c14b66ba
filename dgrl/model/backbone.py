"""The ResNet backbone, cut into the pieces that the network uses (paper III-A and III-C)."""

import copy
from dataclasses import dataclass

import torchvision
from torch import nn

from dgrl.model.nonlocal_block import NonLocalBlock
from dgrl.model.params import BackboneName

STEM_CHANNELS = 64
NON_LOCAL_LAYER2, NON_LOCAL_LAYER3 = 2, 3  # blocks that get a non-local block behind them, as in AGW


@dataclass
class Backbone:
    """The parts of a ResNet.

    Attributes:
        stem: conv1, bn1, relu and maxpool: [B, 3, H, W] -> [B, 64, H/4, W/4].
        layers: layer1 to layer4.
        channels: the width of layer4's output.
    """

    stem: nn.Sequential
    layers: list[nn.Sequential]
    channels: int


def build_backbone(name: BackboneName, last_stride: int) -> Backbone:
    """A torchvision ResNet without its pooling and classifier, with weights of torch's global generator.

    Args:
        name: torchvision's name.
        last_stride: stride of layer4: 2 is the ResNet's own, 1 keeps a finer map.
    """
    resnet = torchvision.models.get_model(name)
    _set_stride(resnet.layer4[0], last_stride)
    stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
    layers = [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]
    return Backbone(stem, layers, resnet.fc.in_features)


def with_non_local(layer: nn.Sequential, count: int) -> nn.Sequential:
    """``layer`` with a non-local block behind each of its last ``count`` residual blocks."""
    blocks = list(layer)
    first = max(0, len(blocks) - count)
    parts: list[nn.Module] = []
    for index, block in enumerate(blocks):
        parts.append(block)
        if index >= first:
            parts.append(NonLocalBlock(_width(block)))
    return nn.Sequential(*parts)


def copy_of(*layers: nn.Sequential) -> nn.Sequential:
    """The layers one after another with parameters of their own, starting at the same values."""
    return nn.Sequential(*(copy.deepcopy(layer) for layer in layers))


def _width(block: nn.Module) -> int:
    norm = getattr(block, "bn3", None) or block.bn2
    assert isinstance(norm, nn.BatchNorm2d)
    return norm.num_features


def _set_stride(block: nn.Module, stride: int) -> None:
    """Set the stride of a residual block that halves the resolution, in its path and in its shortcut."""
    for module in block.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (stride, stride)
