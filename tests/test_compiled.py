"""``train.compile``: the same losses, or none of it."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from test_training import Curve, run, train_params
from torch import nn

from dgrl.model.gem import GeM
from dgrl.model.network import Output
from dgrl.model.restormer import RestormerBlock
from dgrl.training.compiled import compile_network
from dgrl.training.params import CompileMode

PARAMS = {"epochs": 1, "learning_rate": 1e-4}  # three steps


def fails(network: nn.Module, **options: object) -> nn.Module:
    raise RuntimeError("there is no C++ compiler\nat all")


def says_nothing(network: nn.Module, **options: object) -> nn.Module:
    raise AssertionError


def departs(network: nn.Module, **options: object) -> nn.Module:
    class Departs(nn.Module):
        def forward(self, hr: torch.Tensor, sr: torch.Tensor) -> Output:
            output: Output = network(hr, sr)
            return output._replace(embeddings=[1.5 * each for each in output.embeddings])

    return Departs()


def weights(path: Path, **changes: object) -> dict[str, torch.Tensor]:
    return run(path, Curve(), train_params(**PARAMS, **changes)).state_dict()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return weights(tmp_path_factory.mktemp("none") / "checkpoint.pt")


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        (fails, "(there is no C++ compiler)"),
        (says_nothing, "(AssertionError)"),
        (departs, "(Tensor-likes are not close!)"),
    ],
)
def test_where_it_does_not_work_training_goes_on_without(
    compiler: Callable[..., nn.Module],
    reason: str,
    expected: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch, "compile", compiler)
    found = weights(tmp_path / "checkpoint.pt", compile="default")
    assert f"train.compile = default does not work here {reason}; going on without" in caplog.text
    for name, tensor in expected.items():  # the trials leave no trace
        assert torch.equal(tensor, found[name]), name


@pytest.mark.slow
def test_a_compiled_network_has_the_same_losses(caplog: pytest.LogCaptureFixture) -> None:
    """A stem and what follows it in small: a whole network would compile for minutes."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), RestormerBlock(8, 2), GeM())
    images = torch.randn(4, 3, 16, 8)

    def trial(network: nn.Module) -> torch.Tensor:
        loss = network(images).exp().mean()
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        return torch.stack([loss.detach(), torch.nn.utils.get_total_norm(gradients)])

    with caplog.at_level("INFO"):
        compiled = compile_network(network, "default", trial, torch.float32)
    assert "compiled; the first step's losses agree" in caplog.text
    assert compiled is not network
    torch.testing.assert_close(trial(compiled), trial(network), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "loss", "norm", "kept"),
    [
        (torch.float32, 1.0, 1.0, True),
        (torch.float32, 1.002, 1.0, False),
        (torch.float32, 1.0, 1.002, False),
        (torch.bfloat16, 1.02, 1.15, True),  # as bfloat16 rounds
        (torch.bfloat16, 1.1, 1.0, False),
        (torch.bfloat16, 1.0, 1.5, False),
    ],
)
def test_a_compiled_network_may_depart_as_far_as_rounding_does(
    dtype: torch.dtype, loss: float, norm: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, compiled = nn.Identity(), nn.Identity()
    monkeypatch.setattr(torch, "compile", lambda network, **options: compiled)
    step = torch.tensor([3.0, 1.5, 1000.0])  # two loss terms, the norm of the gradient

    def trial(network: nn.Module) -> torch.Tensor:
        return step * torch.tensor([1.0, loss, norm]) if network is compiled else step

    assert compile_network(plain, "default", trial, dtype) is (compiled if kept else plain)


@pytest.mark.parametrize(("mode", "kept"), [("default", True), ("cuda_graphs", False)])
def test_a_replayed_graph_is_tried_too(
    mode: CompileMode, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA graphs first warm up, then record: a wrong graph shows in the third step."""
    plain, compiled, steps = nn.Identity(), nn.Identity(), count(1)
    monkeypatch.setattr(torch, "compile", lambda network, **options: compiled)

    def trial(network: nn.Module) -> torch.Tensor:
        return torch.tensor([2.0 if network is compiled and next(steps) == 3 else 1.0, 1.0])

    assert compile_network(plain, mode, trial, torch.float32) is (compiled if kept else plain)
