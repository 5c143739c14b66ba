"""``train.compile``: the same losses, or none of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_training import Curve, run, train_params
from torch import nn

from dgrl.model.network import DGRL, Output

PARAMS = {"epochs": 1, "log_every": 1, "learning_rate": 1e-4}  # three steps


def fails(network: nn.Module, **options: object) -> nn.Module:
    raise RuntimeError("there is no C++ compiler\nat all")


def departs(network: nn.Module, **options: object) -> nn.Module:
    class Departs(nn.Module):
        def forward(self, hr: torch.Tensor, sr: torch.Tensor) -> Output:
            output: Output = network(hr, sr)
            return output._replace(embeddings=[1.5 * each for each in output.embeddings])

    return Departs()


def weights(path: Path, **changes: object) -> tuple[DGRL, Curve]:
    curve = Curve()
    return run(path, curve, train_params(**PARAMS, **changes)), curve


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [(fails, "(there is no C++ compiler)"), (departs, "(Tensor-likes are not close!)")],
)
def test_where_it_does_not_work_training_goes_on_without(
    compiler: Callable[..., nn.Module],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected, _ = weights(tmp_path / "none")
    monkeypatch.setattr(torch, "compile", compiler)
    found, _ = weights(tmp_path / "compiled", compile="default")
    assert f"train.compile = default does not work here {reason}; going on without" in caplog.text
    for name, tensor in expected.state_dict().items():  # the trials leave no trace
        assert torch.equal(tensor, found.state_dict()[name]), name


@pytest.mark.slow
def test_a_compiled_network_has_the_same_losses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, expected = weights(tmp_path / "none")
    with caplog.at_level("INFO"):
        _, found = weights(tmp_path / "compiled", compile="default")
    assert "compiled; the first step's losses and gradients agree" in caplog.text
    for step, figures in expected.figures.items():
        for name in (name for name in figures if name.startswith("loss")):
            assert found.figures[step][name] == pytest.approx(figures[name], rel=1e-2), (step, name)
