"""Model files: whatever the damage, one line that names the file; and no weight that is not finite leaves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_training import MODEL

from dgrl.errors import DivergedError, InputError
from dgrl.model.network import DGRL
from dgrl.weights.checkpoint import load_checkpoint, save_checkpoint
from dgrl.weights.published import load_model, save_model

State = dict[str, torch.Tensor]
FIRST = "heads.0.neck.weight"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "model.safetensors"
    save_model(path, DGRL(MODEL, 5), MODEL, 5)
    return path


def message(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"\xff" * 64, b"\0" * 64], ids=repr)
def test_what_is_no_model_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    assert "damaged or no safetensors file" in message(path)


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    message(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.integers(min_value=0, max_value=2**31))
def test_a_truncated_file(good: Path, tmp_path: Path, cut: int) -> None:
    data = good.read_bytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(data[: cut % len(data)])
    message(path)


def drop(state: State) -> None:
    del state[FIRST]


def add(state: State) -> None:
    state["another"] = torch.zeros(1)


def reshape(state: State) -> None:
    state[FIRST] = torch.zeros(3)


def make_integers(state: State) -> None:
    state[FIRST] = torch.ones_like(state[FIRST], dtype=torch.int32)


def make_infinite(state: State) -> None:
    state[FIRST] = torch.full_like(state[FIRST], torch.inf)


@pytest.mark.parametrize("change", [drop, add, reshape, make_integers, make_infinite])
def test_tensors_that_do_not_fit_are_named(
    good: Path, tmp_path: Path, change: Callable[[State], None]
) -> None:
    state = load_file(good)
    change(state)
    path = tmp_path / "model.safetensors"
    header = json.dumps({"model": MODEL.model_dump(mode="json"), "persons": 5})
    save_file(state, path, {"dgrl": header})
    assert ("another" if change is add else FIRST) in message(path)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        "3",
        "[" * 9999,
        "{}",
        '{"persons": "five"}',
        '{"persons": 5}',
        '{"persons": 5, "model": {"height": "a"}}',
    ],
)
def test_a_header_that_says_something_else(good: Path, tmp_path: Path, header: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file(load_file(good), path, {"dgrl": header})
    with pytest.raises(InputError, match=str(path)):
        load_model(path)


@pytest.mark.parametrize("change", [{}, {"dimension": 10**9}, {"expansion": 1e300}, {"groups": 10**15}])
def test_a_header_that_asks_for_all_memory(good: Path, tmp_path: Path, change: dict[str, float]) -> None:
    path = tmp_path / "model.safetensors"
    config = {"model": MODEL.model_dump(mode="json") | change, "persons": 10**12}
    save_file(load_file(good), path, {"dgrl": json.dumps(config)})
    message(path)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_weights_that_are_not_finite_are_not_published(tmp_path: Path, value: float) -> None:
    model: Any = DGRL(MODEL, 5)
    with torch.no_grad():
        model.heads[0].classifier.weight[0, 0] = value
    with pytest.raises(InputError, match=r"heads\.0\.classifier\.weight has values that are not finite"):
        save_model(tmp_path / "model.safetensors", model, MODEL, 5)
    assert list(tmp_path.iterdir()) == []


PLACE = ("step 2 (learning rate 0.5)", "lower train.learning_rate")


@pytest.mark.parametrize("entry", ["model", "average"])
def test_a_checkpoint_that_is_not_finite_leaves_the_last_good_one(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1, "model": {"w": torch.ones(1)}, "average": {}}, *PLACE)
    state = {"step": 2, "model": {"w": torch.ones(1)}, "average": {}, entry: {"w": torch.tensor([torch.nan])}}
    with pytest.raises(DivergedError, match=r"step 2 \(learning rate 0.5\) the tensor w .*; lower train"):
        save_checkpoint(path, state, *PLACE)
    kept = load_checkpoint(path)
    assert kept is not None
    assert kept["step"] == 1


@pytest.mark.parametrize("data", [b"", b"PK", b"\x80\x02garbage", b"<html>" * 99])
def test_a_damaged_checkpoint_is_no_checkpoint(
    tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(data)
    assert load_checkpoint(path) is None
    assert f"{path} is damaged; the run starts anew" in caplog.text


@pytest.mark.parametrize("place", [0, 0.3, 0.7, 0.999])
def test_a_checkpoint_with_one_changed_byte_is_no_checkpoint(tmp_path: Path, place: float) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"model": {"w": torch.rand(1000)}}, *PLACE)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    assert load_checkpoint(path) is None


def test_a_checkpoint_that_another_program_wrote_is_no_checkpoint(tmp_path: Path) -> None:
    """Whatever it may lack, or hold that no run has: it is not looked for."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"model": {"w": torch.ones(3)}}, *PLACE)
    state = torch.load(path, weights_only=True)
    state["model"]["w"] = torch.full((2,), torch.nan)
    torch.save(state, path)
    assert load_checkpoint(path) is None
