"""``torch.compile`` of the network, on trial."""

import logging
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from dgrl.training.params import CompileMode

# torch's names, and the steps to try: CUDA graphs warm up in the first, record the second, replay the third
_MODES = {"default": ("default", 1), "cuda_graphs": ("reduce-overhead", 3)}
# How far losses and the gradient's norm may be apart, relatively: a compiler rounds elsewhere. The norm of a
# random ResNet-50 in bfloat16 was 4 to 12 % from float32's, compiled 12 to 17 % (three batches).
_TOLERANCES = {torch.float32: (1e-3, 1e-3), torch.bfloat16: (5e-2, 0.3)}

logger = logging.getLogger(__name__)


def compile_network(
    network: nn.Module, mode: CompileMode, trial: Callable[[nn.Module], Tensor], dtype: torch.dtype
) -> nn.Module:
    """The compiled network, or the network as it was, and a warning, if that fails or computes otherwise.

    Args:
        network: that a step calls.
        mode: ``none``, ``default``, or ``cuda_graphs``, which also replays a step's kernels as one graph.
        trial: the loss terms that a step makes of a network, and as the last element the norm of its
            gradient; it must leave the network's state as it was.
        dtype: that the step computes in, which says how far two trials may be apart.
    """
    if mode == "none":
        return network
    name, trials = _MODES[mode]
    expected = trial(network)
    try:
        compiled = cast(nn.Module, torch.compile(network, mode=name, dynamic=False))
        for _ in range(trials):
            _require_close(trial(compiled), expected, dtype)
    except Exception as error:  # a compiler is missing, or an operator, or memory; or the metrics differ
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        logger.warning("train.compile = %s does not work here (%s); going on without", mode, reason)
        return network
    logger.info("compiled; the first step's losses agree within %g, gradients %g", *_TOLERANCES[dtype])
    return compiled


def trial_step(
    model: nn.Module, terms_of: Callable[[nn.Module], dict[str, Tensor]], network: nn.Module
) -> Tensor:
    """The loss terms of a step that is not taken, and the norm of its gradient: [terms + 1].

    Args:
        model: whose gradients and buffers are left as they were.
        terms_of: from a network to the loss terms of the next step.
        network: ``model``, or what was compiled of it.
    """
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    terms = torch.stack(list(terms_of(network).values()))
    terms.sum().backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    model.zero_grad()
    for name, buffer in model.named_buffers():
        buffer.copy_(kept[name])
    return torch.cat([terms.detach(), norm[None]])


def _require_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    losses, gradient = _TOLERANCES[dtype]
    torch.testing.assert_close(found[:-1], expected[:-1], rtol=losses, atol=losses)
    torch.testing.assert_close(found[-1], expected[-1], rtol=gradient, atol=gradient)
