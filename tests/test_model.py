"""The network's modules against their equations in NumPy float64."""

import copy
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from dgrl.model.galn import GALN
from dgrl.model.gem import GeM
from dgrl.model.nonlocal_block import NonLocalBlock
from dgrl.model.restormer import RestormerBlock
from dgrl.random import named_generator

Array = npt.NDArray[np.float64]
Parameters = dict[str, Array]


def normal(*shape: int, name: str, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(named_generator("test_model", name).normal(0, scale, shape))


def randomise(module: nn.Module, scale: float = 0.4) -> None:
    """Parameters and batch norm statistics that no term of a formula can hide behind."""
    generator = named_generator("test_model", "weights")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.from_numpy(np.asarray(generator.normal(0, scale, parameter.shape))))
        for name, buffer in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.from_numpy(generator.uniform(0.5, 2, buffer.shape)))


def arrays(module: nn.Module) -> Parameters:
    return {name: value.double().numpy() for name, value in module.state_dict().items()}


def within(prefix: str, parameters: Parameters) -> Parameters:
    return {name.removeprefix(prefix): v for name, v in parameters.items() if name.startswith(prefix)}


# ---- Restormer block, eq. 1 to 4 ----


def layer_norm(x: Array, p: Parameters) -> Array:
    mean = x.mean(axis=1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=1, keepdims=True)
    scaled = (x - mean) / np.sqrt(variance + 1e-5)
    return np.asarray(scaled * p["weight"][:, None, None] + p["bias"][:, None, None])


def pointwise(x: Array, weight: Array) -> Array:
    return np.asarray(np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], x))


def depthwise(x: Array, weight: Array) -> Array:
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros_like(x)
    for row in range(3):
        for column in range(3):
            shifted = padded[:, :, row : row + height, column : column + width]
            out += weight[:, 0, row, column][:, None, None] * shifted
    return out


def mdta(x: Array, p: Parameters) -> Array:
    batch, channels = x.shape[:2]
    qkv = depthwise(pointwise(x, p["qkv.weight"]), p["qkv_depthwise.weight"])
    q, k, v = (part.reshape(batch, channels, -1) for part in np.split(qkv, 3, axis=1))
    q = q / np.sqrt((q**2).sum(axis=2, keepdims=True))
    k = k / np.sqrt((k**2).sum(axis=2, keepdims=True))
    heads = len(p["temperature"])
    size = channels // heads
    out = np.zeros_like(v)
    for b in range(batch):
        for head in range(heads):
            first = head * size
            for i in range(first, first + size):
                scores = [q[b, i] @ k[b, j] * p["temperature"].item(head) for j in range(first, first + size)]
                weights = np.exp(scores) / np.exp(scores).sum()
                out[b, i] = weights @ v[b, first : first + size]
    return pointwise(out.reshape(x.shape), p["project.weight"])


def gdfn(x: Array, p: Parameters) -> Array:
    wide = depthwise(pointwise(x, p["expand.weight"]), p["depthwise.weight"])
    gate, value = np.split(wide, 2, axis=1)
    gelu = gate * (1 + np.vectorize(math.erf)(gate / math.sqrt(2))) / 2
    return pointwise(gelu * value, p["project.weight"])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_restormer_block_is_equations_1_to_4(dtype: torch.dtype, tolerance: float) -> None:
    block = RestormerBlock(channels=12, heads=4)
    randomise(block)
    block.to(dtype)
    x = normal(2, 12, 5, 3, name="restormer").to(dtype)

    p = arrays(block)
    expected = x.double().numpy()
    expected = mdta(layer_norm(expected, within("norm_attention.", p)), within("attention.", p)) + expected
    expected = (
        gdfn(layer_norm(expected, within("norm_feed_forward.", p)), within("feed_forward.", p)) + expected
    )
    with torch.no_grad():
        np.testing.assert_allclose(block(x).numpy(), expected, rtol=tolerance, atol=tolerance)


def test_restormer_block_has_the_widths_of_the_design() -> None:
    block = RestormerBlock(channels=64)
    assert block.attention.temperature.flatten().tolist() == [1, 1, 1, 1]
    assert block.feed_forward.project.weight.shape == (64, int(2.66 * 64), 1, 1)
    assert [name for name, _ in block.named_parameters() if name.endswith("bias")] == [
        "norm_attention.bias",
        "norm_feed_forward.bias",
    ]


# ---- Non-local block ----


@pytest.mark.parametrize("training", [True, False])
def test_non_local_block_starts_as_the_identity(training: bool) -> None:
    x = normal(2, 8, 4, 3, name="identity").float()
    assert torch.equal(NonLocalBlock(8).train(training)(x), x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("inner", [None, 1])
@pytest.mark.parametrize("size", [(4, 3), (3, 1)], ids=["more pixels than channels", "fewer"])
def test_non_local_block_is_the_mean_over_all_pairs_of_pixels(
    size: tuple[int, int], inner: int | None, training: bool
) -> None:
    block = NonLocalBlock(8, inner).double().train(training)
    randomise(block)
    x = normal(2, 8, *size, name="pairs")
    p = arrays(block)

    pixels = x.flatten(2).transpose(1, 2).numpy()  # [B, N, C]
    theta, phi, g = (
        pixels @ p[f"{name}.weight"][:, :, 0, 0].T + p[f"{name}.bias"] for name in ("theta", "phi", "g")
    )
    assert theta.shape[2] == phi.shape[2] == g.shape[2] == (inner or 8 // 2)
    batch, count = pixels.shape[:2]
    y = np.zeros_like(g)
    for b in range(batch):
        for i in range(count):
            y[b, i] = sum((theta[b, i] @ phi[b, j]) * g[b, j] for j in range(count)) / count
    projected = y @ p["project.0.weight"][:, :, 0, 0].T + p["project.0.bias"]
    mean, variance = p["project.1.running_mean"], p["project.1.running_var"]
    if training:
        mean, variance = projected.mean(axis=(0, 1)), projected.var(axis=(0, 1))
    projected = (projected - mean) / np.sqrt(variance + 1e-5)
    expected = pixels + projected * p["project.1.weight"] + p["project.1.bias"]

    with torch.no_grad():
        actual = block(x).flatten(2).transpose(1, 2).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


# ---- GeM ----


def slow_gem(x: Array, p: float) -> Array:
    return np.asarray((np.maximum(x, 1e-6) ** p).mean(axis=(2, 3)) ** (1 / p))


@pytest.mark.parametrize("p", [0.7, 1.0, 3.0, 6.5])
def test_gem_is_the_generalised_mean(p: float) -> None:
    x = normal(2, 3, 5, 4, name="gem")
    np.testing.assert_allclose(GeM(p).double()(x).detach().numpy(), slow_gem(x.numpy(), p), rtol=1e-6)
    np.testing.assert_allclose(GeM(p)(x.float()).detach().numpy(), slow_gem(x.numpy(), p), rtol=1e-5)


def test_gem_goes_from_the_mean_to_the_maximum() -> None:
    x = normal(2, 3, 5, 4, name="gem").abs().float()
    torch.testing.assert_close(GeM(1.0)(x), x.mean(dim=(2, 3)))
    pooled = torch.stack([GeM(p)(x) for p in (1.0, 3.0, 10.0, 60.0)])
    assert (pooled.diff(dim=0) > 0).all()
    torch.testing.assert_close(pooled[-1], x.amax(dim=(2, 3)), rtol=0.06, atol=0)  # 20^(-1/60) = 0.951


def test_gem_gradients_equal_finite_differences() -> None:
    """For the input and p, in float64."""
    x = normal(2, 3, 5, 4, name="gem").abs().requires_grad_()
    p = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, p: torch.func.functional_call(GeM(), {"p": p}, x), (x, p))


def test_gem_computes_in_float32_or_better() -> None:
    x = normal(2, 3, 5, 4, name="gem").bfloat16()
    pooled = GeM()(x)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, GeM()(x.float()), rtol=0, atol=0)
    assert GeM().double()(x.double()).dtype == torch.float64


# ---- GALN ----


@pytest.mark.parametrize("groups", [1, 32])
def test_galn_is_the_instance_plus_the_weighted_groups(groups: int) -> None:
    dimension = 5
    galn = GALN(channels=7, dimension=dimension, groups=groups, hidden=6).double()
    randomise(galn)
    x = normal(3, 7, name="galn")
    p = arrays(galn)

    pooled = x.numpy()
    instance = pooled @ p["instance.weight"].T + p["instance.bias"]
    hidden = np.maximum(instance @ p["probability.0.weight"].T + p["probability.0.bias"], 0)
    scores = np.exp(hidden @ p["probability.2.weight"].T + p["probability.2.bias"])
    probability = scores / scores.sum(axis=1, keepdims=True)
    expected = instance.copy()
    for k in range(groups):
        own = slice(k * dimension, (k + 1) * dimension)
        representation = pooled @ p["groups.weight"][own].T + p["groups.bias"][own]
        expected += probability[:, k : k + 1] * representation

    with torch.no_grad():
        np.testing.assert_allclose(galn(x).numpy(), expected, rtol=1e-9, atol=1e-9)


# ---- Gradients ----


def test_the_smallest_expansion_keeps_one_hidden_channel() -> None:
    assert RestormerBlock(4, heads=2, expansion=0.01)(torch.ones(1, 4, 3, 2)).shape == (1, 4, 3, 2)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (RestormerBlock(4, heads=2), (1, 4, 3, 2)),
        (NonLocalBlock(4), (2, 4, 3, 2)),
        (GALN(4, 3, 2, 5), (3, 4)),
    ],
    ids=["restormer", "non_local", "galn"],
)
def test_gradients_equal_finite_differences(module: nn.Module, shape: tuple[int, ...]) -> None:
    """For the input and every parameter, in float64."""
    module = copy.deepcopy(module).double()
    randomise(module)
    names, parameters = zip(*module.named_parameters(), strict=True)

    def run(x: Tensor, *values: Tensor) -> Any:
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(
        run, (normal(*shape, name="gradcheck").requires_grad_(), *parameters), atol=1e-6
    )
