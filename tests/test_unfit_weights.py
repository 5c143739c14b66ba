"""Files of weights that load and yet hold no weights: sparse, quantised, without values, not finite, ..."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from test_weights import State, start

from dgrl.errors import InputError


@pytest.fixture(scope="module")
def resnet() -> State:
    state: State = torchvision.models.resnet18().state_dict()
    return state


def write(folder: Path, suffix: str, state: State) -> Path:
    path = folder / f"resnet{suffix}"
    save: Any = save_file if suffix == ".safetensors" else torch.save
    save(state, path)
    return path


UNFIT = {
    "meta": lambda tensor: tensor.to("meta"),
    "sparse": lambda tensor: tensor.float().to_sparse(),
    "quantised": lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
    "not finite": lambda tensor: torch.full_like(tensor, torch.nan),
    "not finite, in another type": lambda tensor: torch.full_like(tensor, 1e300, dtype=torch.float64),
    "torch.int32": lambda tensor: tensor.int(),
    "torch.complex64": lambda tensor: tensor.to(torch.complex64),
    "torch.bool": lambda tensor: tensor.bool(),
}


@pytest.mark.parametrize("kind", UNFIT)
@pytest.mark.parametrize("layout", [".pth", ".safetensors"])
def test_a_tensor_that_is_no_weight_is_named(
    kind: str, layout: str, resnet: State, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    if layout == ".safetensors" and kind in ("meta", "sparse", "quantised"):
        pytest.skip("safetensors has no such tensors")
    name = "layer2.0.conv1.weight"
    with warnings.catch_warnings(action="ignore"):
        file = write(tmp_path, layout, resnet | {name: UNFIT[kind](resnet[name])})
    with pytest.raises(InputError, match=rf"{file}: the tensor {name} .*{kind.partition(',')[0]}"):
        start(file)
    assert not recwarn.list


@pytest.mark.parametrize("layout", [".pth", ".safetensors"])
def test_scalars_are_no_weights(layout: str, resnet: State, tmp_path: Path) -> None:
    file = write(tmp_path, layout, {name: torch.tensor(1.0) for name in resnet})
    with pytest.raises(InputError, match=r"only 0 of the \d+ tensors of resnet18"):
        start(file)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pth").touch()
    monkeypatch.setattr("os.access", lambda *_: False)  # root may read all
    with pytest.raises(InputError, match=r"a\.pth': no permission to read it"):
        start(tmp_path / "a.pth")
