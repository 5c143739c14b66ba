"""The network's shapes, parts and copies."""

from typing import Any

import pytest
import torch
import torchvision
from test_model import normal
from torch import Tensor, nn

from dgrl.errors import InputError
from dgrl.model.network import DGRL, Head, Stem
from dgrl.model.nonlocal_block import NonLocalBlock
from dgrl.model.params import ModelParams

PERSONS = 6
SMALL = ModelParams(
    backbone="resnet18", weights="none", height=64, width=32, groups=4, dimension=24, group_hidden=8
)
SWITCHES = ("restormer", "non_local", "side_branches", "galn")


def vary(**changes: Any) -> ModelParams:
    return SMALL.model_copy(update=changes)


def build(params: ModelParams = SMALL, device: str = "cpu") -> DGRL:
    """On the ``meta`` device nothing is computed: only shapes are."""
    torch.manual_seed(0)
    with torch.device(device):
        return DGRL(params, PERSONS)


def make_images(count: int, name: str) -> Tensor:
    return normal(count, 3, SMALL.height, SMALL.width, name=name).float()


def stem(model: DGRL, stream: str) -> Stem:
    found = model.stems[stream]
    assert isinstance(found, Stem)
    return found


def heads(model: DGRL) -> list[Head]:
    return [head for head in model.heads if isinstance(head, Head)]


def pooled_maps(model: DGRL, images: Tensor) -> list[Tensor]:
    """What each head pools [2B, C, h, w]."""
    maps: list[Tensor] = []
    for head in heads(model):
        head.pool.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    model(images, images)
    return maps


@pytest.mark.parametrize("off", [None, *SWITCHES])
def test_output_shapes(off: str | None) -> None:
    params = vary(**{off: False}) if off else SMALL
    images = torch.empty(3, 3, 64, 32, device="meta")
    model = build(params, "meta")
    output = model(images, images)
    branches = 1 if off == "side_branches" else 3
    dimension = 512 if off == "galn" else 24
    assert output.shallow_hr.shape == output.shallow_sr.shape == (3, 64, 16, 8)
    assert [tuple(x.shape) for x in output.embeddings] == [(6, dimension)] * branches
    assert [tuple(x.shape) for x in output.logits] == [(6, PERSONS)] * branches
    assert model.embed(images, "sr").shape == (3, dimension)


@pytest.mark.parametrize("off", SWITCHES)
def test_a_switch_removes_exactly_its_own_parameters(off: str) -> None:
    whole = build(vary(dimension=512), "meta")  # of layer4's width: without GALN the heads keep their size
    parts: dict[str, list[nn.Module | None]] = {
        "restormer": [stem(whole, "hr").restormer, stem(whole, "sr").restormer],
        "non_local": [module for module in whole.modules() if isinstance(module, NonLocalBlock)],
        "side_branches": [whole.side2, whole.side3, *whole.heads[1:]],
        "galn": [head.galn for head in heads(whole)],
    }
    gone = [id(p) for part in parts[off] if part is not None for p in part.parameters()]
    kept = [tuple(p.shape) for p in whole.parameters() if id(p) not in gone]
    assert gone
    assert kept == [tuple(p.shape) for p in build(vary(dimension=512, **{off: False}), "meta").parameters()]


def test_the_papers_network_at_the_papers_size() -> None:
    """ResNet-50 at 256 x 128: all three branches end at stride 16, non-local blocks where AGW has them."""
    model = build(ModelParams(weights="none"), "meta")
    images = torch.empty(2, 3, 256, 128, device="meta")
    assert [tuple(x.shape) for x in pooled_maps(model, images)] == [(4, 2048, 16, 8)] * 3
    output = model(images, images)
    assert [tuple(x.shape) for x in output.embeddings] == [(4, 512)] * 3

    def places(layer: nn.Sequential) -> list[int]:
        return [index for index, block in enumerate(layer) if isinstance(block, NonLocalBlock)]

    # ResNet-50 has 3, 4, 6 and 3 residual blocks.
    assert [len(layer) for layer in (model.layer1, model.layer2, model.layer3, model.layer4)] == [3, 6, 9, 3]
    assert places(model.layer2) == [3, 5]
    assert places(model.layer3) == [4, 6, 8]
    narrow: Any = build(ModelParams(weights="none", non_local_width=1), "meta")
    assert narrow.layer2[3].theta.out_channels == 1
    assert model.layer2.get_submodule("3.theta").out_channels == 256
    for side in (model.side2, model.side3):
        assert side is not None
        assert not any(isinstance(module, NonLocalBlock) for module in side.modules())


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("last_stride", "size"), [(1, (4, 2)), (2, (2, 1))])
def test_last_stride_sets_the_size_of_all_branches(
    backbone: str, last_stride: int, size: tuple[int, int]
) -> None:
    model = build(vary(backbone=backbone, last_stride=last_stride), "meta")
    maps = pooled_maps(model, torch.empty(2, 3, 64, 32, device="meta"))
    assert [tuple(x.shape[2:]) for x in maps] == [size] * 3


def test_without_its_components_the_network_is_torchvisions_resnet() -> None:
    model = build(vary(last_stride=2, **dict.fromkeys(SWITCHES, False))).eval()
    torch.manual_seed(0)
    resnet = nn.Sequential(*list(torchvision.models.resnet18().children())[:-2]).eval()  # to layer4
    images = make_images(2, "resnet")
    with torch.no_grad():
        (feature_map,) = pooled_maps(model, images)
        torch.testing.assert_close(feature_map, resnet(images).repeat(2, 1, 1, 1))


def test_side_branches_start_as_copies_of_their_own() -> None:
    model = build()
    assert model.side2 is not None
    assert model.side3 is not None
    residual = [block for block in model.layer3 if not isinstance(block, NonLocalBlock)]
    layer4 = list(model.layer4)
    for side, source in ((model.side2, [*residual, *layer4]), (model.side3, layer4)):
        copied = list(side.state_dict().values())
        original = [value for block in source for value in block.state_dict().values()]
        assert len(copied) == len(original)
        assert all(torch.equal(a, b) for a, b in zip(copied, original, strict=True))
    addresses = [value.data_ptr() for value in model.state_dict().values()]
    assert len(set(addresses)) == len(addresses)


def test_the_stems_start_from_equal_convolutions_and_share_nothing() -> None:
    model = build()
    hr, sr = stem(model, "hr"), stem(model, "sr")
    for (name, a), b in zip(hr.stem.state_dict().items(), sr.stem.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    images = make_images(2, "stems")
    before = sr.eval()(images)
    with torch.no_grad():
        for parameter in hr.parameters():
            parameter.add_(1)
    assert torch.equal(sr(images), before)


def test_the_stem_is_a_residual_around_the_restormer() -> None:
    hr = stem(build(), "hr").eval()
    assert hr.restormer is not None
    images = make_images(2, "stems")
    convolution, norm = hr.stem[:2]
    x = nn.functional.max_pool2d(norm(convolution(images)).relu(), 3, stride=2, padding=1)
    torch.testing.assert_close(hr(images), x + hr.restormer(x))


def test_embeddings_are_the_main_branch_after_the_neck_at_unit_length() -> None:
    model = build()
    hr, sr = make_images(3, "hr"), make_images(3, "sr")
    model(hr, sr)  # moves the running statistics
    model.eval()
    with torch.no_grad():
        after_neck = heads(model)[0].neck(model(hr, sr).embeddings[0])
        embedded = torch.cat([model.embed(hr, "hr"), model.embed(sr, "sr")])
        crossed = model.embed(hr, "sr")
    assert embedded.dtype == torch.float32
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(embedded, after_neck / after_neck.norm(dim=1, keepdim=True))
    assert not torch.allclose(crossed, embedded[:3], atol=1e-4)


def test_the_neck_has_a_frozen_bias_and_the_classifier_none() -> None:
    for head in heads(build(device="meta")):
        assert not head.neck.bias.requires_grad
        assert head.neck.weight.requires_grad
        assert head.classifier.bias is None


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"backbone": "vgg16"}, "model.backbone"),
        ({"weights": "imagenet21k"}, "model.weights"),
        ({"height": 100}, "model.height"),
        ({"last_stride": 3}, "model.last_stride"),
        ({"groups": 0}, "model.groups"),
    ],
)
def test_a_wrong_value_is_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        ModelParams.parse(wrong, "model")
