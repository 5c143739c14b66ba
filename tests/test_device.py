"""The GPUs' names, and what glibc does with freed memory."""

import platform
import subprocess
import sys

import pytest
import torch

from dgrl.parallel.device import gpus

FREED = """
import psutil, torch
from dgrl.parallel.device import keep_freed_memory
if {keep}:
    keep_freed_memory()
tensor = torch.ones(100_000_000, dtype=torch.uint8)
resident = psutil.Process().memory_info().rss
del tensor
raise SystemExit(psutil.Process().memory_info().rss > resident - 50_000_000)
"""


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("3,GPU-5e", 2, ["3", "GPU-5e"]),
        ("3,-1,4", 1, ["3"]),  # what follows an invalid one is not seen
        ("", 0, []),
    ],
)
def test_gpus_have_the_names_that_a_process_is_told(
    visible: str | None, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == expected


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("keep", [False, True])
def test_freed_memory_is_kept_where_asked(keep: bool) -> None:
    assert subprocess.run([sys.executable, "-c", FREED.format(keep=keep)], check=False).returncode == keep
