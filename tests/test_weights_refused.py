"""Files that a network cannot start from, or only in part: each is one line that names the file."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from test_weights import SMALL, State, build, modules, resnet, start, vary, write
from torch import nn

from dgrl.errors import InputError
from dgrl.weights.initial import initialise
from dgrl.weights.published import save_model

__all__ = ["resnet"]  # a fixture


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.weights = '.*gone\.pth': there is no such file"):
        start(tmp_path / "gone.pth")


@pytest.mark.parametrize("layout", ["torchvision", "safetensors", "OpenReID"])
@pytest.mark.parametrize("kept", [0, 100, -1000])
def test_a_damaged_file_is_named(layout: str, kept: int, resnet: State, tmp_path: Path) -> None:
    file = write(tmp_path, layout, resnet)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(InputError, match=rf"{file.name} is damaged or no \w+ file"):
        start(file)


@pytest.mark.parametrize("name", ["page.pth", "page.safetensors"])
def test_a_web_page_is_no_weights(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("<!doctype html><title>Sign in</title>")
    with pytest.raises(InputError, match=rf"{name} is damaged or no \w+ file"):
        start(tmp_path / name)


class Code:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.touched,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(zipped: bool, resnet: State, tmp_path: Path) -> None:
    content = {"state_dict": resnet, "code": Code(tmp_path / "touched")}
    torch.save(content, tmp_path / "code.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"code\.pth holds code \(.*\), which is not run"):
        start(tmp_path / "code.pth")
    assert not (tmp_path / "touched").exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "module.pth")
    with pytest.raises(InputError, match=r"module\.pth holds code \(torch\.nn\..*Conv2d\)"):
        start(tmp_path / "module.pth")


@pytest.mark.parametrize("content", [torch.ones(3), {"weight": torch.ones(3)}, {"model": {"a": 1}}, [1]])
def test_a_file_without_a_resnet_is_named(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt holds no ResNet.*layer1\.0\.conv1\.weight"):
        start(tmp_path / "other.pt")


def test_another_architecture_is_refused(resnet: State, tmp_path: Path) -> None:
    file = write(tmp_path, "torchvision", resnet)
    params = vary(backbone="resnet50")
    with pytest.raises(InputError, match=r"only \d+ of the \d+ tensors of resnet50 are in .*resnet\.pth"):
        initialise(build(params, device="meta"), params.model_copy(update={"weights": str(file)}))


def test_another_runs_architecture_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", build(), SMALL, persons=6)
    params = vary(backbone="resnet101", weights=str(tmp_path / "model.safetensors"))
    with pytest.raises(InputError, match=r"tensors of resnet101 are in .*model\.safetensors"):
        initialise(build(params, device="meta"), params)


def test_a_part_is_taken_with_a_warning(
    resnet: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    part = {name: value for name, value in resnet.items() if not name.startswith("layer4.1")}
    _, found = start(write(tmp_path, "torchvision", part))
    assert {"layer4.1", "side2", "side3"} < modules(found.random)
    assert re.search(r"only \d+ of the \d+ tensors of resnet18 are in .*; the others stay", caplog.text)


def test_a_deeper_resnet_is_taken_with_a_warning(
    resnet: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deeper = resnet | {f"layer3.2.{part}.weight": torch.ones(1) for part in ("conv1", "bn1")}
    start(write(tmp_path, "torchvision", deeper))
    assert "resnet.pth has more than resnet18; unused: layer3.2.conv1, layer3.2.bn1" in caplog.text


@pytest.mark.parametrize(("given", "wanted"), [("resnet50", "resnet18"), ("resnet18", "resnet50")])
def test_no_mixture_of_two_architectures_is_trained(given: str, wanted: str, tmp_path: Path) -> None:
    """A ResNet-50 has most of a ResNet-18's batch norms under the same names and in the same shapes."""
    torch.save(torchvision.models.get_model(given).state_dict(), tmp_path / "given.pth")
    with pytest.raises(InputError, match=rf"only \d+ of the \d+ tensors of {wanted} are in .*given\.pth"):
        start(tmp_path / "given.pth", vary(backbone=wanted))


@pytest.mark.parametrize("layout", ["prefixes", "entries"])
def test_a_file_of_teacher_and_student_is_refused(layout: str, resnet: State, tmp_path: Path) -> None:
    """As DINO and mean teachers write them: which of the two is meant is not for us to guess."""
    roles = ("teacher", "student")
    content: dict[str, Any] = dict.fromkeys(roles, resnet)
    if layout == "prefixes":
        content = {f"{role}.{name}": value for role in roles for name, value in resnet.items()}
    torch.save(content, tmp_path / "both.pth")
    with pytest.raises(
        InputError, match=r"both\.pth holds 2 networks \(teacher\.?, student\.?\); save"
    ) as told:
        start(tmp_path / "both.pth")
    assert "\n" not in str(told.value)
