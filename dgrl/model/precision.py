"""Precision of what must not be computed in bfloat16."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """float32, whatever autocast gave; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
