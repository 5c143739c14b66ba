"""``torch.compile`` of the network, on trial."""

import logging
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from dgrl.training.params import CompileMode

_MODES = {"default": "default", "cuda_graphs": "reduce-overhead"}  # torch's names
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # relative; a compiler rounds elsewhere

logger = logging.getLogger(__name__)


def compile_network(
    network: nn.Module, mode: CompileMode, trial: Callable[[nn.Module], Tensor], dtype: torch.dtype
) -> nn.Module:
    """The compiled network, or the network as it was, and a warning, if that fails or computes otherwise.

    Args:
        network: that a step calls.
        mode: ``none``, ``default``, or ``cuda_graphs``, which also replays a step's kernels as one graph.
        trial: what a step makes of a network, losses and gradients, as one tensor; it must leave the
            network's state as it was.
        dtype: that the step computes in, which says how far two trials may be apart.
    """
    if mode == "none":
        return network
    tolerance = _TOLERANCE[dtype]
    expected = trial(network)
    try:
        compiled = cast(nn.Module, torch.compile(network, mode=_MODES[mode], dynamic=False))
        torch.testing.assert_close(trial(compiled), expected, rtol=tolerance, atol=tolerance)
    except Exception as error:  # a compiler is missing, or an operator, or memory; or the figures differ
        reason = str(error).strip().splitlines()[0]
        logger.warning("train.compile = %s does not work here (%s); going on without", mode, reason)
        return network
    logger.info("compiled; the first step's losses and gradients agree within %g", tolerance)
    return compiled
