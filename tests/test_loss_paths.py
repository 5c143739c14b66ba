"""The parameters that each term of the loss reaches: its own path through the network, and nothing else."""

import pytest
import torch
from test_losses import ALL_TERMS, PERSONS, float32, normal
from torch import Tensor

from dgrl.model.losses import loss_terms
from dgrl.model.network import DGRL
from dgrl.model.params import LossParams, ModelParams

STEMS = ("stems.hr", "stems.sr")
SHARED = (*STEMS, "layer1", "layer2")
PATHS = {
    "": (*SHARED, "layer3", "layer4"),
    "_side2": (*SHARED, "side2"),
    "_side3": (*SHARED, "layer3", "side3"),
}
HEADS = {"": "heads.0", "_side2": "heads.1", "_side3": "heads.2"}
REACHED = {
    **{f"id{branch}": (*path, HEADS[branch]) for branch, path in PATHS.items()},
    **{
        f"wrt{branch}": (*path, f"{HEADS[branch]}.pool", f"{HEADS[branch]}.galn")
        for branch, path in PATHS.items()
    },
    "l1": STEMS,
    "kl": (*SHARED, "layer3", "layer4", "side2", "side3", *HEADS.values()),
}


@pytest.fixture(scope="module")
def network() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The trainable parameters of a small network, and its loss terms for a batch."""
    torch.manual_seed(0)
    params = ModelParams(
        backbone="resnet18", weights="none", height=64, width=32, groups=4, dimension=24, group_hidden=8
    )
    model = DGRL(params, persons=3).train()
    hr, sr = (float32(normal(3, 3, 64, 32, name=stream)) for stream in ("hr", "sr"))
    trainable: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return trainable, loss_terms(model(hr, sr), PERSONS, LossParams())


@pytest.mark.parametrize("term", sorted(ALL_TERMS))
def test_a_term_reaches_its_own_path_and_nothing_else(
    network: tuple[dict[str, Tensor], dict[str, Tensor]], term: str
) -> None:
    parameters, terms = network
    gradients = torch.autograd.grad(
        terms[term], list(parameters.values()), allow_unused=True, retain_graph=True
    )
    reached = {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    prefixes = tuple(f"{part}." for part in REACHED[term])
    assert all(any(name.startswith(prefix) for name in parameters) for prefix in prefixes)
    assert reached == {name for name in parameters if name.startswith(prefixes)}
    stem = dict(zip(parameters, gradients, strict=True))["stems.sr.stem.0.weight"]
    assert stem.abs().sum() > 0
