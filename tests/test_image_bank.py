"""The decoded images: equal wherever they lie, and only as many in memory as fit."""

import logging
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch

from dgrl.image_bank import Storage, choose_storage, load_bank
from dgrl.images import Image
from dgrl.parallel import device
from dgrl.random import named_generator
from dgrl.tables import ImageRow, write_table

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of other sizes."""
    folder = tmp_path_factory.mktemp("bank") / "table"
    rows = [
        ImageRow.from_pixels(
            image(number),
            f"{number}.png",
            image_id=str(number),
            person_id="1",
            camera_id="a",
            subset="train",
            factor=1,
        )
        for number in range(3)
    ]
    write_table(folder, rows)
    return folder


def image(number: int) -> Image:
    size = [(64, 32, 3), (20, 10, 3), (100, 60, 3)][number]
    return named_generator("test_image_bank", number).integers(0, 256, size, np.uint8)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("device", [None, CPU])
def test_a_bank_has_every_image_at_the_size(
    table: Path, mapped: bool, device: torch.device | None, tmp_path: Path
) -> None:
    bank = load_bank(table, 64, 32, device=device, file=tmp_path / "bank.npy" if mapped else None)
    expected = [
        image(0),
        cv2.resize(image(1), (32, 64), interpolation=cv2.INTER_CUBIC),
        cv2.resize(image(2), (32, 64), interpolation=cv2.INTER_AREA),
    ]
    assert bank.keys.image_id.tolist() == ["0", "1", "2"]
    assert bank.images.shape == (3, 3, 64, 32)
    assert bank.images.dtype == torch.uint8
    taken = bank.take(torch.tensor([2, 0, 2]), CPU)
    for found, number in zip(taken, (2, 0, 2), strict=True):
        np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected[number])


def test_a_file_is_decoded_once(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "bank.npy"
    first = load_bank(table, 64, 32, file=file)
    monkeypatch.setattr("dgrl.image_bank._decode", None)
    second = load_bank(table, 64, 32, file=file)
    assert torch.equal(first.images, second.images)


def test_a_file_that_was_cut_short_is_not_taken(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bank.npy"
    with monkeypatch.context() as patch:
        patch.setattr("dgrl.image_bank.resize", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            load_bank(table, 64, 32, file=file)
    assert not list(tmp_path.iterdir())
    bank = load_bank(table, 64, 32, file=file)
    np.testing.assert_array_equal(bank.images[0].permute(1, 2, 0).numpy(), image(0))


@pytest.mark.parametrize(
    ("wanted", "needed", "storage", "said"),
    [
        ("auto", 500, "memory", "0.00 GB of images in memory"),
        ("auto", 501, "file", "in a file mapped into memory"),
        ("memory", 10**12, "memory", "1000.00 GB of images in memory"),
        ("file", 1, "file", "in a file mapped into memory"),
        ("device", 1, "device", "on cpu"),
    ],
)
def test_images_lie_where_they_fit(
    wanted: Literal["auto", Storage],
    needed: int,
    storage: Storage,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("dgrl.image_bank.free_memory", lambda device: 1000)
    with caplog.at_level(logging.INFO):
        assert choose_storage(wanted, needed, CPU) == storage
    assert said in caplog.text


@pytest.mark.parametrize(
    ("limit", "used", "expected"), [("max", "5", 10**9), ("1000", "400", 600), ("9999999999", "5", 10**9)]
)
def test_a_container_has_the_memory_of_its_limit(
    limit: str, used: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Machine:
        available = 10**9

    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(used + "\n")
    monkeypatch.setattr(device, "_CGROUP", tmp_path)
    monkeypatch.setattr(device.psutil, "virtual_memory", Machine)
    assert device.free_memory(CPU) == expected
    monkeypatch.setattr(device, "_CGROUP", tmp_path / "absent")
    assert device.free_memory(CPU) == 10**9


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells what is resident")
def test_images_that_were_taken_from_a_file_do_not_stay_resident(table: Path, tmp_path: Path) -> None:
    file = tmp_path / "bank.npy"
    bank = load_bank(table, 64, 32, file=file)
    expected = bank.images.clone()
    assert resident_kib(file) > 0
    assert torch.equal(bank.take(torch.arange(3), CPU), expected)
    assert resident_kib(file) == 0
    assert torch.equal(bank.take(torch.arange(3), CPU), expected)


def resident_kib(file: Path) -> int:
    """Of the file's map in this process."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.endswith(str(file)))
    return next(int(line.split()[1]) for line in lines[start:] if line.startswith("Rss:"))
