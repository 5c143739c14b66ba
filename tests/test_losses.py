"""The losses against the paper's equations written out in float64."""

import math
from collections.abc import Callable
from itertools import product
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from dgrl.errors import InputError
from dgrl.model.losses import id_loss, kl_loss, l1_loss, loss_terms, pairwise_distances, wrt_loss
from dgrl.model.network import Output
from dgrl.model.params import LossParams, WrtForm
from dgrl.random import named_generator

Array = npt.NDArray[np.float64]

PERSONS = torch.tensor([0, 1, 2])  # of three pairs
BOTH = PERSONS.repeat(2)
ALL_TERMS = {"id", "id_side2", "id_side3", "wrt", "wrt_side2", "wrt_side3", "l1", "kl"}


def normal(*shape: int, name: str, scale: float = 1.0) -> Array:
    return named_generator("test_losses", name).normal(0, scale, shape)


def float32(x: Array) -> Tensor:
    return torch.from_numpy(x).float()


def softmax(x: Array) -> Array:
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


# ---- ID, eq. 6 ----


@pytest.mark.parametrize("xi", [0.0, 0.1, 0.6])
def test_id_loss_is_equation_6(xi: float) -> None:
    logits = normal(5, 7, name="id", scale=3)
    persons = [0, 6, 3, 3, 1]
    classes = logits.shape[1]
    expected = 0.0
    for row, person in zip(logits, persons, strict=True):
        p = softmax(row)
        for i in range(classes):
            q = 1 - (classes - 1) / classes * xi if i == person else xi / classes
            expected -= q * math.log(p[i]) / len(persons)
    actual = id_loss(float32(logits), torch.tensor(persons), xi)
    assert actual.item() == pytest.approx(expected, rel=1e-5)


# ---- WRT, eq. 8 ----


def split_distances(x: Array, persons: list[int], anchor: int) -> tuple[Array, Array]:
    """Distances from an anchor to its positives, itself left out, and to its negatives."""
    positive, negative = [], []
    for other in range(len(x)):
        distance = math.sqrt(sum((a - b) ** 2 for a, b in zip(x[anchor], x[other], strict=True)))
        if persons[other] != persons[anchor]:
            negative.append(distance)
        elif other != anchor:
            positive.append(distance)
    return np.array(positive), np.array(negative)


def slow_wrt(x: Array, persons: list[int]) -> float:
    total = 0.0
    for anchor in range(len(x)):
        positive, negative = split_distances(x, persons, anchor)
        margin = softmax(positive) @ positive - softmax(-negative) @ negative
        total += float(np.logaddexp(0, margin))
    return total / len(x)


def reference_weights(scores: list[float], masked: int) -> list[float]:
    """AGW's: its maximum is over a row in which all that is masked is 0; 1e-6 is against a division by 0."""
    largest = max(scores + [0.0] * masked)
    total = sum(math.exp(score - largest) for score in scores) + 1e-6
    return [math.exp(score - largest) / total for score in scores]


def slow_reference_wrt(x: Array, persons: list[int]) -> float:
    """AGW's formula: each anchor is a positive of its own, at a distance of sqrt(1e-12)."""
    total = 0.0
    for anchor in range(len(x)):
        positive, negative = map(list, split_distances(x, persons, anchor))
        positive.append(1e-6)
        positive_weights = reference_weights(positive, masked=len(negative))
        negative_weights = reference_weights([-distance for distance in negative], masked=len(positive))
        furthest = sum(w * d for w, d in zip(positive_weights, positive, strict=True))
        closest = sum(w * d for w, d in zip(negative_weights, negative, strict=True))
        total += math.log1p(math.exp(furthest - closest))
    return total / len(x)


SLOW = {"stable": slow_wrt, "reference": slow_reference_wrt}


@pytest.mark.parametrize("form", ["stable", "reference"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("persons", [[0, 1, 2, 0, 1, 2], [4, 4, 9, 9, 9, 4, 4]])
def test_wrt_loss_is_equation_8_or_the_public_code(form: WrtForm, scale: float, persons: list[int]) -> None:
    x = normal(len(persons), 4, name="wrt", scale=scale)
    actual = wrt_loss(torch.from_numpy(x), torch.tensor(persons), form)
    assert actual.item() == pytest.approx(SLOW[form](x, persons), rel=1e-9)
    actual = wrt_loss(float32(x), torch.tensor(persons), form)
    assert actual.item() == pytest.approx(SLOW[form](x, persons), rel=1e-3, abs=1e-6)


def test_the_forms_differ_at_small_distances_by_the_anchor() -> None:
    """Which is a positive of its own in the public code: half of the positive weight, at a distance of 0."""
    x = np.eye(6) * 0.05 / math.sqrt(2)  # 0.05 apart
    persons = torch.tensor([0, 1, 2, 0, 1, 2])
    stable, reference = (wrt_loss(torch.from_numpy(x), persons, form) for form in get_args(WrtForm))
    assert stable.item() == pytest.approx(math.log(2))
    assert reference.item() == pytest.approx(math.log1p(math.exp(-0.05 / 2)), abs=1e-3)


def test_wrt_gradient_equals_differences_of_the_float64_formula() -> None:
    persons = [0, 0, 0, 1, 1, 1]  # two positives each, so that the weights have a gradient too
    x = normal(6, 3, name="wrt gradient")
    leaf = float32(x).requires_grad_()
    (gradient,) = torch.autograd.grad(wrt_loss(leaf, torch.tensor(persons)), leaf)
    h = 1e-5
    slopes = np.zeros_like(x)
    for index in product(*map(range, x.shape)):
        step = np.zeros_like(x)
        step[index] = h
        slopes[index] = (slow_wrt(x + step, persons) - slow_wrt(x - step, persons)) / (2 * h)
    np.testing.assert_allclose(gradient.numpy(), slopes, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("spread", [0.1, 0.001])
def test_distances_far_from_the_origin_keep_their_digits(spread: float) -> None:
    """As embeddings before a batch norm are: a common mean whose norm is many times their spread."""
    x = float32(normal(1, 64, name="mean") + normal(12, 64, name="spread", scale=spread))
    exact = np.linalg.norm(x.double().numpy()[:, None] - x.double().numpy(), axis=2)
    others = ~np.eye(len(x), dtype=bool)
    actual = pairwise_distances(x).numpy()
    np.testing.assert_allclose(actual[others], exact[others], rtol=1e-5)


def test_wrt_weights_sum_to_one_where_the_public_ones_vanish() -> None:
    # All images of the paper's batch 32 apart: sums of one give a margin of 0 and log(1 + exp 0).
    persons = [person for person in range(16) for _ in range(6)]
    x = np.eye(96) * 32 / math.sqrt(2)
    positive, negative = split_distances(x, persons, anchor=0)
    assert [*positive, *negative] == pytest.approx([32] * 95)
    assert sum(reference_weights(list(-negative), masked=6)) == pytest.approx(1.14e-6, rel=1e-2)
    labels = torch.tensor(persons)
    assert wrt_loss(float32(x), labels).item() == pytest.approx(math.log(2), abs=1e-4)
    # No negative is left, and all that is lost is the distance of the positives.
    assert wrt_loss(float32(x), labels, "reference").item() == pytest.approx(32, abs=1e-3)


def test_at_a_mean_distance_of_32_the_public_code_pushes_no_negative_away() -> None:
    persons = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    x = normal(9, 128, name="far", scale=2)
    negative = np.concatenate([split_distances(x, persons, anchor)[1] for anchor in range(len(x))])
    assert negative.mean() == pytest.approx(32, abs=1)
    forces = {}
    for form in get_args(WrtForm):
        leaf = torch.from_numpy(x).requires_grad_()
        loss = wrt_loss(leaf, torch.tensor(persons), form)
        assert loss.item() == pytest.approx(SLOW[form](x, persons), rel=1e-9)
        # Only negatives move the centre of a person's images.
        (gradient,) = torch.autograd.grad(loss, leaf)
        forces[form] = gradient[:3].sum(dim=0).norm().item()
    assert slow_reference_wrt(x, persons) > slow_wrt(x, persons) + 20
    assert forces["stable"] > 1e-2
    assert forces["reference"] < 1e-4


@pytest.mark.parametrize("form", ["stable", "reference"])
def test_wrt_has_a_finite_gradient_where_images_coincide(form: WrtForm) -> None:
    x = float32(normal(3, 4, name="coincide", scale=3).round().repeat(2, axis=0)).requires_grad_()
    assert torch.equal(x[0], x[1])  # of whole numbers, so that their distance is exactly 0
    (gradient,) = torch.autograd.grad(wrt_loss(x, torch.tensor([0, 0, 1, 1, 2, 2]), form), x)
    assert gradient.isfinite().all()


# ---- smooth L1, eq. 5 ----


def test_l1_loss_is_the_mean_of_equation_5() -> None:
    a, b = normal(2, 3, 4, 5, name="hr"), normal(2, 3, 4, 5, name="sr")
    each = [0.5 * d**2 if d < 1 else d - 0.5 for d in np.abs(a - b).ravel()]
    assert {d < 1 for d in np.abs(a - b).ravel()} == {True, False}
    assert l1_loss(float32(a), float32(b)).item() == pytest.approx(np.mean(each), rel=1e-5)


def test_the_gradient_of_l1_lies_in_memory_as_the_network_does() -> None:
    """Else every convolution of a stem's backward pass would reorder its input."""
    a, b = (float32(normal(2, 3, 4, 5, name=name)) for name in ("hr", "sr"))
    a = a.to(memory_format=torch.channels_last).requires_grad_()
    seen: list[Tensor] = []
    output = 2 * a
    output.register_hook(seen.append)
    l1_loss(output, b).backward()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


# ---- KL, eq. 10 to 12 ----


def slow_kl(logits: list[Array], temperature: float) -> float:
    p = [softmax(branch / temperature) for branch in logits]
    total = 0.0
    for j, i in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]:
        for target, own in zip(p[j].ravel(), p[i].ravel(), strict=True):
            total += target * math.log(target / own)
    return temperature**2 * total / len(logits[0])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_loss_is_equation_12_over_the_six_ordered_pairs(temperature: float) -> None:
    logits = [normal(4, 5, name=f"kl {branch}", scale=2) for branch in range(3)]
    actual = kl_loss([float32(x) for x in logits], temperature).item()
    assert actual == pytest.approx(slow_kl(logits, temperature), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_detaches_the_target(temperature: float) -> None:
    """T^2 d KL(p_j || p_i) / d s_i = T (p_i - p_j); nothing comes through p_j."""
    logits = [normal(4, 5, name=f"kl {branch}", scale=2) for branch in range(3)]
    leaves = [torch.from_numpy(x).requires_grad_() for x in logits]
    gradients = torch.autograd.grad(kl_loss(leaves, temperature), leaves)
    p = [softmax(x / temperature) for x in logits]
    for i, gradient in enumerate(gradients):
        expected = temperature * sum(p[i] - p[j] for j in range(3) if j != i) / 4
        np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-9, atol=1e-12)


# ---- Gradients ----


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (lambda x: id_loss(x, BOTH, 0.1), [(6, 3)]),
        (lambda x: wrt_loss(x, BOTH.repeat(2), "stable"), [(12, 4)]),
        (lambda x: wrt_loss(x, BOTH.repeat(2), "reference"), [(12, 4)]),
        (l1_loss, [(2, 3, 2, 2), (2, 3, 2, 2)]),
        (lambda *x: kl_loss(list(x), 2.0, detach=False), [(4, 3)] * 3),
    ],
    ids=["id", "wrt stable", "wrt reference", "l1", "kl"],
)
def test_gradients_equal_finite_differences(
    loss: Callable[..., Tensor], shapes: list[tuple[int, ...]]
) -> None:
    """In float64. KL without detaching its target, which differences cannot."""
    leaves = [
        torch.from_numpy(normal(*s, name=f"gradcheck {i}")).requires_grad_() for i, s in enumerate(shapes)
    ]
    assert torch.autograd.gradcheck(loss, leaves)


# ---- Their sum, eq. 13 ----


@pytest.fixture
def output() -> Output:
    return Output(
        float32(normal(3, 4, 5, 6, name="f_h")),
        float32(normal(3, 4, 5, 6, name="f_s")),
        [float32(normal(6, 8, name=f"F {branch}")) for branch in range(3)],
        [float32(normal(6, 3, name=f"logits {branch}")) for branch in range(3)],
    )


def test_the_terms_sum_to_equation_13_with_the_papers_weights(output: Output) -> None:
    ids = [id_loss(x, BOTH, 0.1).item() for x in output.logits]
    wrts = [wrt_loss(x, BOTH).item() for x in output.embeddings]
    expected = (
        5 * l1_loss(output.shallow_hr, output.shallow_sr).item()
        + (ids[0] + 0.5 * ids[1] + 0.5 * ids[2])
        + (wrts[0] + 0.5 * wrts[1] + 0.5 * wrts[2])
        + kl_loss(output.logits).item()
    )
    terms = loss_terms(output, PERSONS, LossParams())
    assert set(terms) == ALL_TERMS
    assert sum(term.item() for term in terms.values()) == pytest.approx(expected, rel=1e-6)


def test_each_weight_scales_its_own_term(output: Output) -> None:
    plain = loss_terms(output, PERSONS, LossParams(gamma=1, alpha1=1, beta1=1, alpha2=1, beta2=1))
    changed = LossParams(gamma=2, alpha1=3, beta1=5, alpha2=7, beta2=11, kl=13)
    scaled = loss_terms(output, PERSONS, changed)
    ratios = {name: (scaled[name] / plain[name]).item() for name in plain}
    expected = dict.fromkeys(ALL_TERMS, 1)
    expected |= {"l1": 2, "id_side2": 3, "id_side3": 5, "wrt_side2": 7, "wrt_side3": 11, "kl": 13}
    assert ratios == pytest.approx(expected)


@pytest.mark.parametrize(
    ("off", "dropped"),
    [("wrt", {"wrt", "wrt_side2", "wrt_side3"}), ("l1", {"l1"}), ("kl", {"kl"})],
)
def test_a_switch_drops_its_terms_and_changes_no_other(output: Output, off: str, dropped: set[str]) -> None:
    whole = loss_terms(output, PERSONS, LossParams())
    rest = loss_terms(output, PERSONS, LossParams().model_copy(update={off: False}))
    assert set(rest) == ALL_TERMS - dropped
    assert all(torch.equal(rest[name], whole[name]) for name in rest)


def test_the_form_of_wrt_is_the_parameters(output: Output) -> None:
    stable = loss_terms(output, PERSONS, LossParams())
    reference = loss_terms(output, PERSONS, LossParams(wrt_form="reference"))
    for branch, name in enumerate(["wrt", "wrt_side2", "wrt_side3"]):
        weight = 0.5 if branch else 1.0
        expected = weight * wrt_loss(output.embeddings[branch], BOTH, "reference")
        assert reference[name].item() == pytest.approx(expected.item())
        assert reference[name].item() != pytest.approx(stable[name].item(), rel=1e-2)


def test_one_branch_has_no_side_terms_and_no_kl(output: Output) -> None:
    single = output._replace(embeddings=output.embeddings[:1], logits=output.logits[:1])
    assert set(loss_terms(single, PERSONS, LossParams())) == {"id", "wrt", "l1"}


def test_losses_are_computed_in_float32(output: Output) -> None:
    hr, sr, embeddings, logits = output
    low = Output(
        hr.bfloat16(), sr.bfloat16(), [x.bfloat16() for x in embeddings], [x.bfloat16() for x in logits]
    )
    cast = Output(
        low.shallow_hr.float(),
        low.shallow_sr.float(),
        [x.float() for x in low.embeddings],
        [x.float() for x in low.logits],
    )
    expected = loss_terms(cast, PERSONS, LossParams())
    for name, term in loss_terms(low, PERSONS, LossParams()).items():
        assert term.dtype == torch.float32
        assert torch.equal(term, expected[name])


# ---- Parameters ----


def test_the_defaults_are_the_papers() -> None:
    params = LossParams.parse({}, "loss")
    assert (params.gamma, params.alpha1, params.beta1, params.alpha2, params.beta2) == (5, 0.5, 0.5, 0.5, 0.5)
    assert params.label_smoothing == 0.1
    assert params.wrt
    assert params.l1
    assert (params.kl, params.kl_temperature, params.kl_detach) == (1, 1, True)
    assert params.wrt_form == "stable"


@pytest.mark.parametrize(
    "wrong", [{"gamma": -1.0}, {"label_smoothing": 1.0}, {"wrt": "yes"}, {"wrt_form": "agw"}, {"delta": 1.0}]
)
def test_a_wrong_value_is_named(wrong: dict[str, float | str]) -> None:
    with pytest.raises(InputError, match=rf"loss\.{next(iter(wrong))}"):
        LossParams.parse(wrong, "loss")
