"""The DGRL network (paper section III, figure 2)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from dgrl.errors import InputError
from dgrl.model.backbone import (
    NON_LOCAL_LAYER2,
    NON_LOCAL_LAYER3,
    build_backbone,
    copy_of,
    side_branches,
    width,
    with_non_local,
)
from dgrl.model.galn import GALN
from dgrl.model.gem import GeM
from dgrl.model.params import ModelParams
from dgrl.model.restormer import RestormerBlock

Stream = Literal["hr", "sr"]


class Output(NamedTuple):
    """What an optimizer step needs; B pairs, so 2B images, HR first.

    Branches are main, side branch from stage 2 ('), side branch from stage 3 (''): one or three of them.
    """

    shallow_hr: Tensor  # f_h [B, C, H/4, W/4], C = 64 for a ResNet
    shallow_sr: Tensor  # f_s [B, C, H/4, W/4]
    embeddings: list[Tensor]  # F of each branch, before the batch norm [2B, D]
    logits: list[Tensor]  # of each branch [2B, persons]


class Stem(nn.Module):
    """Shallow feature extraction of one stream: the backbone's stem, f = x + Restormer(x) (III-B).

    Shape: [B, 3, H, W] -> [B, C, H/4, W/4]; C = 64 for a ResNet.
    """

    def __init__(self, stem: nn.Sequential, restormer: RestormerBlock | None) -> None:
        super().__init__()
        self.stem = stem
        self.restormer = restormer

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.stem(images)
        return x if self.restormer is None else x + self.restormer(x)


class Head(nn.Module):
    """GeM, GALN, BNNeck and classifier of one branch (III-C).

    Shape: [B, C, h, w] -> F before the batch norm [B, D], F after it [B, D], logits [B, persons].
    """

    def __init__(self, channels: int, persons: int, params: ModelParams) -> None:
        super().__init__()
        self.pool = GeM()
        self.galn: nn.Module = nn.Identity()
        dimension = channels
        if params.galn:
            dimension = params.dimension
            self.galn = GALN(channels, dimension, params.groups, params.group_hidden)
        self.neck = nn.BatchNorm1d(dimension)
        self.neck.bias.requires_grad_(False)  # BNNeck: Luo et al., Bag of Tricks, CVPRW 2019
        self.classifier = nn.Linear(dimension, persons, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        embedding: Tensor = self.galn(self.pool(feature_map))
        normalised: Tensor = self.neck(embedding)
        logits: Tensor = self.classifier(normalised)
        return embedding, normalised, logits


class DGRL(nn.Module):
    """Two unshared stems, shared layers, two side branches, three heads, all of them with random weights.

    Args:
        params: the ``model`` section; ``initialise`` follows its ``weights``.
        persons: number of training persons.

    Raises:
        InputError: if the backbone needs a package that is not installed, or ``heads`` does not fit it.
    """

    def __init__(self, params: ModelParams, persons: int) -> None:
        super().__init__()
        backbone = build_backbone(params.backbone, params.last_stride)
        layer1, layer2, layer3, layer4 = backbone.layers
        self.stems = nn.ModuleDict({stream: _stem(backbone.stem, params) for stream in ("hr", "sr")})
        self.side2: nn.Sequential | None = None
        self.side3: nn.Sequential | None = None
        channels = [width(layer4)]
        if params.side_branches:
            self.side2, self.side3 = side_branches(params, backbone.layers)
            channels += [width(self.side2), width(self.side3)]
        if params.non_local:
            layer2 = with_non_local(layer2, NON_LOCAL_LAYER2, params.non_local_width)
            layer3 = with_non_local(layer3, NON_LOCAL_LAYER3, params.non_local_width)
        self.layer1, self.layer2, self.layer3, self.layer4 = layer1, layer2, layer3, layer4
        self.heads = nn.ModuleList(Head(each, persons, params) for each in channels)

    def forward(self, hr: Tensor, sr: Tensor) -> Output:
        """The training pass.

        Args:
            hr: normalised HR images [B, 3, H, W], float.
            sr: their SR twins, in the same order.
        """
        shallow_hr, shallow_sr = self.stems["hr"](hr), self.stems["sr"](sr)
        stage2 = self.layer2(self.layer1(torch.cat([shallow_hr, shallow_sr])))
        stage3 = self.layer3(stage2)
        maps = [self.layer4(stage3)]
        if self.side2 is not None and self.side3 is not None:
            maps += [self.side2(stage2), self.side3(stage3)]
        outputs = [head(feature_map) for head, feature_map in zip(self.heads, maps, strict=True)]
        embeddings, _, logits = map(list, zip(*outputs, strict=True))
        return Output(shallow_hr, shallow_sr, embeddings, logits)

    def embed(self, images: Tensor, stream: Stream) -> Tensor:
        """The test pass: the main branch's feature after the batch norm, L2-normalised (IV-B).

        Args:
            images: normalised images [B, 3, H, W], float.
            stream: ``hr`` for gallery images, ``sr`` for queries.

        Returns:
            Embeddings [B, D], float32, of unit length.
        """
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stems[stream](images)))))
        _, normalised, _ = self.heads[0](x)
        return nn.functional.normalize(normalised.float(), dim=1)


def _stem(stem: nn.Sequential, params: ModelParams) -> Stem:
    if not params.restormer:
        return Stem(copy_of(*stem), None)
    channels = width(stem)
    if channels % params.heads:
        raise InputError(
            f"model.heads = {params.heads}: the stem of {params.backbone} has {channels} channels; give a "
            "divisor of them"
        )
    return Stem(copy_of(*stem), RestormerBlock(channels, params.heads, params.expansion))
