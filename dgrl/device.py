"""Where tensors are computed, and how much memory there is."""

from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")  # version 2: what a container may take


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
