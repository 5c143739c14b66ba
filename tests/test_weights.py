"""What a network starts from: ImageNet, files of other projects, earlier runs; and files that do not fit."""

import hashlib
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from dgrl.errors import InputError
from dgrl.model.network import DGRL
from dgrl.model.params import BackboneName, ModelParams
from dgrl.weights.initial import Match, initialise, match_weights
from dgrl.weights.published import load_model, save_model

SMALL = ModelParams(
    backbone="resnet18", weights="none", height=64, width=32, groups=4, dimension=24, group_hidden=8
)
State = dict[str, Tensor]


def vary(**changes: Any) -> ModelParams:
    return ModelParams.parse(SMALL.model_dump() | changes, "model")


def build(params: ModelParams = SMALL, persons: int = 6, seed: int = 0, device: str = "cpu") -> DGRL:
    """On the ``meta`` device tensors have a shape and no values."""
    torch.manual_seed(seed)
    with torch.device(device):
        return DGRL(params, persons)


def start(weights: Path, params: ModelParams = SMALL, persons: int = 6) -> tuple[DGRL, Match]:
    model = build(params, persons)
    return model, initialise(model, params.model_copy(update={"weights": str(weights)}))


def match(network: DGRL, file: DGRL) -> Match:
    def weights(model: DGRL) -> State:
        return {name: t for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}

    return match_weights(weights(network), weights(file))


def modules(names: list[str]) -> set[str]:
    """The network's parts that own the tensors."""
    return {re.sub(r"^((stems|heads)\.\w+\.\w+|layer\d\.\d+|\w+).*", r"\1", name) for name in names}


def images() -> Tensor:
    return torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def embed(model: DGRL) -> Tensor:
    with torch.no_grad():
        return model.eval().embed(images(), "sr")


# ---- ResNets of other projects ----


@pytest.fixture(scope="module")
def resnet() -> State:
    """A trained ResNet-18: no tensor is what a new one has. In half precision, as a small file."""
    torch.manual_seed(1)
    state = torchvision.models.resnet18().state_dict()
    return {
        name: value if name.endswith("num_batches_tracked") else (torch.rand_like(value) + 0.5).half()
        for name, value in state.items()
    }


def write(path: Path, layout: str, resnet: State) -> Path:
    if layout == "safetensors":
        save_file(resnet, path / "resnet.safetensors")
        return path / "resnet.safetensors"
    prefixed = {
        "backbone.": {f"backbone.{name}": value for name, value in resnet.items()},
        "module.": {f"module.{name}": value for name, value in resnet.items()},
        "module.base.": {f"module.base.{name}": value for name, value in resnet.items()},
        "base.": {f"base.{name}": value for name, value in resnet.items()},
    }
    key = {name: torch.zeros_like(value) for name, value in resnet.items()}
    content: dict[str, Any] = {
        "torchvision": resnet,
        "fast-reid": {
            "model": {**prefixed["backbone."], "heads.weight": torch.ones(3, 512)},
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}},
            "iteration": 9,
        },
        "torchreid": {"state_dict": prefixed["module."], "epoch": 60, "rank1": np.float32(0.9)},
        "AGW": prefixed["base."],
        "MoCo": {
            "state_dict": {
                **{f"module.encoder_k.{name}": value for name, value in key.items()},
                **{f"module.encoder_q.{name}": value for name, value in resnet.items()},
            }
        },
        "timm": {"state_dict": key, "state_dict_ema": resnet, "epoch": 9},
        "OpenReID": {"state_dict": prefixed["module.base."], "epoch": 60, "best_top1": np.float64(0.9)},
    }
    file = path / ("resnet.pth.tar" if "state_dict" in content[layout] else "resnet.pth")
    torch.save(content[layout], file, _use_new_zipfile_serialization=layout != "OpenReID")
    return file


@pytest.mark.parametrize(
    "layout", ["torchvision", "safetensors", "fast-reid", "torchreid", "OpenReID", "AGW", "MoCo", "timm"]
)
def test_a_resnet_fills_all_its_copies_and_nothing_else(layout: str, resnet: State, tmp_path: Path) -> None:
    new = build()
    model, found = start(write(tmp_path, layout, resnet))

    def assert_holds(part: str, original: str) -> None:
        for name, value in model.get_submodule(part).state_dict().items():
            if not name.endswith("num_batches_tracked"):
                torch.testing.assert_close(value, resnet[f"{original}.{name}"].float(), rtol=0, atol=0)

    for stream in ("hr", "sr"):
        assert_holds(f"stems.{stream}.stem.0", "conv1")
        assert_holds(f"stems.{stream}.stem.1", "bn1")
    for layer, places in (("layer1", (0, 1)), ("layer2", (0, 2)), ("layer3", (0, 2)), ("layer4", (0, 1))):
        for block, place in enumerate(places):  # a non-local block lies between
            assert_holds(f"{layer}.{place}", f"{layer}.{block}")
    for side, layer in (("side2.0", "layer3"), ("side2.1", "layer4"), ("side3.0", "layer4")):
        assert_holds(side, layer)

    assert {name for name in found.unused if "encoder_k" not in name} == {"fc.weight", "fc.bias"} | (
        {"heads.weight"} if layout == "fast-reid" else set()
    )
    restormers = {"stems.hr.restormer", "stems.sr.restormer"}
    non_locals = {"layer2.1", "layer2.3", "layer3.1", "layer3.3"}
    assert modules(found.random) == restormers | non_locals | {
        f"heads.{branch}.{part}" for branch in range(3) for part in ("pool", "galn", "neck", "classifier")
    }
    after, before = model.state_dict(), new.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in found.random)


def test_what_is_taken_does_not_change_what_is_drawn(resnet: State, tmp_path: Path) -> None:
    torch.manual_seed(0)
    initialise(DGRL(SMALL, 6), vary(weights=str(write(tmp_path, "torchvision", resnet))))
    drawn = torch.rand(3)
    torch.manual_seed(0)
    DGRL(SMALL, 6)
    assert torch.equal(torch.rand(3), drawn)


def test_none_leaves_the_network_as_it_was_drawn() -> None:
    model = build()
    found = initialise(model, SMALL)
    assert not found.taken
    assert len(found.random) == sum("num_batches" not in name for name in model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), build().parameters(), strict=True))


def test_the_report_is_logged(resnet: State, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path, "torchvision", resnet)
    with caplog.at_level(logging.INFO):
        _, found = start(file, vary(galn=False, restormer=False, non_local=False))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert caplog.messages == [
        f"weights of {file} (SHA-256 {digest}): {len(found.taken)} tensors taken; 2 of the file unused (fc); "
        f"{len(found.random)} of the network stay random (heads.0.pool, heads.0.neck, heads.0.classifier, "
        "heads.1.pool, heads.1.neck, heads.1.classifier, heads.2.pool, heads.2.neck, heads.2.classifier)"
    ]


# ---- Warm start ----


@pytest.fixture(scope="module")
def earlier() -> DGRL:
    """A network that has been trained: its batch norms, too, are not as they were."""
    model = build(seed=7)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("running_mean", "running_var", "project.1.weight")):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model


def test_a_warm_start_takes_all_but_the_classifiers_of_other_persons(earlier: DGRL, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_model(file, earlier, SMALL, persons=6)
    model, found = start(file, persons=9)
    classifiers = [f"heads.{branch}.classifier.weight" for branch in range(3)]
    assert found.random == classifiers
    assert sorted(found.unused) == classifiers
    before, after, new = earlier.state_dict(), model.state_dict(), build(persons=9).state_dict()
    assert all(source == name for name, source in found.taken.items())
    assert all(torch.equal(after[name], before[name]) for name in found.taken)
    assert all(torch.equal(after[name], new[name]) for name in classifiers)
    torch.testing.assert_close(embed(model), embed(earlier), rtol=0, atol=0)


@pytest.mark.parametrize("lacking", [["non_local"], ["side_branches"], ["non_local", "side_branches"]])
def test_a_run_without_components_starts_a_network_that_has_them(lacking: list[str], tmp_path: Path) -> None:
    """Non-local blocks are the identity at the start, and side branches are not embedded."""
    params = vary(**dict.fromkeys(lacking, False))
    small = build(params, seed=7)
    save_model(tmp_path / "model.safetensors", small, params, persons=6)
    model, _ = start(tmp_path / "model.safetensors")
    torch.testing.assert_close(embed(model), embed(small))
    if "side_branches" in lacking:  # they start as copies, as in any network
        copied, original = (model.get_parameter(f"{at}.1.conv2.weight") for at in ("side3.0", "layer4"))
        assert torch.equal(copied, original)


NON_LOCALS = {"layer2.1", "layer2.3", "layer3.1", "layer3.3"}
OWN = {
    "restormer": {"stems.hr.restormer", "stems.sr.restormer"},
    "non_local": NON_LOCALS,
    "side_branches": {f"heads.{branch}.{part}" for branch in (1, 2) for part in ("pool", "galn", "neck")},
    "galn": {f"heads.{branch}.galn" for branch in range(3)},
}


@pytest.mark.parametrize("component", OWN)
def test_a_component_that_only_one_of_the_two_has_is_all_that_is_left(component: str) -> None:
    whole = vary(dimension=512)  # of layer4's width: without GALN the heads keep their size
    less = whole.model_copy(update={component: False})
    with_it, without = build(whole, 6, device="meta"), build(less, 6, device="meta")
    added, removed = match(with_it, without), match(without, with_it)
    classifiers = {"heads.1.classifier", "heads.2.classifier"} if component == "side_branches" else set()
    sides = {"side2", "side3"} if component == "side_branches" else set()
    assert modules(added.random) == OWN[component] | classifiers
    assert not added.unused
    assert not removed.random
    assert modules(removed.unused) == OWN[component] | classifiers | sides


def test_a_file_of_dgrl_is_known_by_its_names(earlier: DGRL, tmp_path: Path) -> None:
    """So the checkpoint of a run that was stopped is a start, too."""
    torch.save({"step": 3, "model": earlier.state_dict(), "average": {}}, tmp_path / "checkpoint.pt")
    _, found = start(tmp_path / "checkpoint.pt")
    assert not found.random
    assert not found.unused


def test_of_a_checkpoint_the_moving_average_is_taken(earlier: DGRL, tmp_path: Path) -> None:
    states = {"model": build(seed=8).state_dict(), "average": earlier.state_dict()}
    torch.save({"step": 3, **states}, tmp_path / "checkpoint.pt")
    model, _ = start(tmp_path / "checkpoint.pt")
    torch.testing.assert_close(embed(model), embed(earlier), rtol=0, atol=0)


def test_a_model_is_loaded_without_the_weights_that_it_started_from(earlier: DGRL, tmp_path: Path) -> None:
    params = vary(weights="gone.pth")
    save_model(tmp_path / "model.safetensors", earlier, params, persons=6)
    model, loaded = load_model(tmp_path / "model.safetensors")
    assert loaded == params
    torch.testing.assert_close(embed(model), embed(earlier), rtol=0, atol=0)


# ---- ImageNet ----


@pytest.fixture
def published(resnet: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ImageNet's file as torchvision's site has it, and an empty cache."""
    file = write(tmp_path, "torchvision", resnet)
    named = file.with_name(f"resnet18-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth")
    file.rename(named)
    weights = {"IMAGENET1K_V1": SimpleNamespace(url=named.as_uri())}
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _: weights)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return named


def test_imagenet_is_fetched_once(published: Path, resnet: State, caplog: pytest.LogCaptureFixture) -> None:
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    for _ in range(2):
        model = build()
        with caplog.at_level(logging.INFO):
            initialise(model, vary(weights="imagenet"))
        first = "layer1.0.conv1.weight"
        assert torch.equal(model.get_parameter(first), resnet[first].float())
        published.unlink(missing_ok=True)
    assert [message.split()[0] for message in caplog.messages] == ["fetching", "weights", "weights"]
    assert f"SHA-256 {digest}" in caplog.text


def test_imagenet_offline_is_the_users_to_solve(published: Path) -> None:
    published.unlink()
    with pytest.raises(
        InputError, match=r"model\.weights = 'imagenet'.*resnet18-.*set model\.weights to none"
    ):
        initialise(build(), vary(weights="imagenet"))


def test_imagenet_of_another_digest_is_not_kept(published: Path, tmp_path: Path) -> None:
    published.write_bytes(b"not what the name says")
    with pytest.raises(InputError, match=r"cannot be fetched .*invalid hash value"):
        initialise(build(), vary(weights="imagenet"))
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())


def test_a_damaged_file_in_the_cache_is_named(published: Path, tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "checkpoints" / published.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(published.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"{cached.name} is damaged: its SHA-256 is \w+ and does not begin"):
        initialise(build(), vary(weights="imagenet"))


@pytest.mark.parametrize("backbone", [name for name in get_args(BackboneName) if name.startswith("resnet")])
def test_torchvisions_addresses_say_the_digest(backbone: str) -> None:
    url = torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"].url
    assert re.fullmatch(rf"https://.*/{backbone}-[0-9a-f]{{8}}\.pth", url)


# ---- Parameters ----


@pytest.mark.parametrize("weights", ["imagenet50", "None", "weights.bin", "", ".", "imagenet "])
def test_what_is_neither_a_name_nor_a_file_is_refused(weights: str) -> None:
    with pytest.raises(
        InputError, match=r"model\.weights = '.*': allowed: imagenet, none, or a file that ends"
    ):
        vary(weights=weights)


def test_the_file_is_known_without_reading_it() -> None:
    assert vary(weights="imagenet").weights_file is None
    assert vary(weights="none").weights_file is None
    for name in ("a/b.pth", "b.pth.tar", "/c/model.safetensors", "d.pt"):
        assert vary(weights=name).weights_file == Path(name)
