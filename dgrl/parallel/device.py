"""Where tensors are computed, by how many processes, and how much memory there is."""

import ctypes
import os
import sys
from pathlib import Path

import psutil
import torch
from torch import Tensor

from dgrl.parallel.processes import usable_cores

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # malloc.h
_CGROUP = Path("/sys/fs/cgroup")  # version 2: what a container may take


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; neither waits for the other, where a plain copy would."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(count)]
    return names[:count]


def default_workers() -> int:
    """Processes that compute at once: one per GPU, or one per usable core where there is none."""
    return len(gpus()) or usable_cores()


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken: of the GPU, or of this machine, or of this container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:  # not in a container, or an older one
        return free
    return free if limit == "max" else min(free, int(limit) - int(used))


def keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors for new ones, not hand it back to the system.

    It would map what is over 32 MiB, as a CPU's activations at 256x128 are, anew each time, and each time the
    system would clear its pages: a fifth of an optimizer step. Nothing changes without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
