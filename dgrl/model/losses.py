"""The losses of paper section III-D in float32 or better: ID, weighted regularized triplet, smooth L1, KL."""

from collections.abc import Callable
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from dgrl.model.network import Output
from dgrl.model.params import LossParams, WrtForm
from dgrl.model.precision import at_least_float32

BRANCHES = ("", "_side2", "_side3")  # main, ' and '' of eq. 7 and 9


def id_loss(logits: Tensor, persons: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing (eq. 6), mean over the batch.

    Args:
        logits: [B, N].
        persons: class of each image [B], int64.
        label_smoothing: xi.
    """
    return F.cross_entropy(at_least_float32(logits), persons, label_smoothing=label_smoothing)


def wrt_loss(embeddings: Tensor, persons: Tensor, form: WrtForm = "stable") -> Tensor:
    """Weighted regularization triplet loss (eq. 8), mean over the anchors.

    softplus(sum_j w+_j d_j - sum_k w-_k d_k) with w+ = softmax(d) over the other images of the anchor's
    person and w- = softmax(-d) over the images of others.

    ``reference`` gives what the public code of AGW gives (Ye et al., Deep Learning for Person
    Re-identification: A Survey and Outlook, TPAMI 2022; github.com/mangye16/ReID-Survey): each anchor is a
    positive of its own, and the weights are not a softmax at large distances.

    Args:
        embeddings: F before the batch norm [B, D].
        persons: [B], int64; each person has two images or more, and there are two persons or more.
    """
    distances = pairwise_distances(at_least_float32(embeddings))
    same = persons[:, None] == persons[None, :]
    if form == "reference":
        positive, negative = _reference_weights(distances, same), _reference_weights(-distances, ~same)
    else:
        itself = torch.eye(len(persons), dtype=torch.bool, device=persons.device)
        positive, negative = _masked_softmax(distances, same & ~itself), _masked_softmax(-distances, ~same)
    margin = (positive * distances).sum(dim=1) - (negative * distances).sum(dim=1)
    return F.softplus(margin).mean()


def pairwise_distances(x: Tensor) -> Tensor:
    """Euclidean distances between the rows of [B, D]: [B, B], with a finite gradient at zero.

    The mean row is subtracted first, which changes no distance: far from the origin the squares would be
    large beside their differences, and rounding would eat the distances.
    """
    x = x - x.detach().mean(dim=0)
    squares = x.square().sum(dim=1)
    squared = squares[:, None] + squares[None, :] - 2 * (x @ x.T)
    return squared.clamp(min=1e-12).sqrt()


def l1_loss(shallow_hr: Tensor, shallow_sr: Tensor) -> Tensor:
    """Smooth L1 between f_h and f_s (eq. 5), mean over all elements (d)."""
    # Channels last, as the network has them: the gradient has the order in which the loss sees its input.
    hr, sr = (at_least_float32(shallow).permute(0, 2, 3, 1) for shallow in (shallow_hr, shallow_sr))
    return F.smooth_l1_loss(hr, sr)


def kl_loss(logits: list[Tensor], temperature: float = 1.0, *, detach: bool = True) -> Tensor:
    """Sum over the ordered pairs of branches of KL(p_j || p_i) (eq. 11 and 12), batch mean.

    Args:
        logits: of each branch, [B, N].
        temperature: T of p = softmax(logits / T); the loss is times T^2, so that gradients keep their size.
        detach: whether the target p_j gets no gradient (d), as in DHM.
    """
    log_p = [F.log_softmax(at_least_float32(branch) / temperature, dim=1) for branch in logits]
    targets = [branch.detach() for branch in log_p] if detach else log_p
    pairs = [
        F.kl_div(log_p[i], targets[j], reduction="batchmean", log_target=True)
        for i, j in permutations(range(len(log_p)), 2)
    ]
    return temperature**2 * torch.stack(pairs).sum()


def loss_terms(
    output: Output, persons: Tensor, params: LossParams, gather: Callable[[Tensor], Tensor] = lambda x: x
) -> dict[str, Tensor]:
    """Every term of eq. 13, already weighted, so that their sum is the loss.

    Args:
        output: of ``DGRL.forward`` for B pairs.
        persons: class of each pair [B], int64.
        params: the ``loss`` section.
        gather: from the rows of this process to those of all that share the batch, among which triplets
            are mined; every other term is a mean over images.

    Returns:
        Scalars by name: ``id``, ``id_side2``, ``id_side3``, ``wrt``, ..., ``l1``, ``kl``.
    """
    both = persons.repeat(2)  # HR and SR images
    id_weights = (1.0, params.alpha1, params.beta1)
    wrt_weights = (1.0, params.alpha2, params.beta2)
    terms = {
        f"id{name}": weight * id_loss(logits, both, params.label_smoothing)
        for name, weight, logits in zip(BRANCHES, id_weights, output.logits, strict=False)
    }
    if params.wrt:
        everyone = gather(both)
        terms |= {
            f"wrt{name}": weight * wrt_loss(gather(at_least_float32(embeddings)), everyone, params.wrt_form)
            for name, weight, embeddings in zip(BRANCHES, wrt_weights, output.embeddings, strict=False)
        }
    if params.l1:
        terms["l1"] = params.gamma * l1_loss(output.shallow_hr, output.shallow_sr)
    if params.kl and len(output.logits) > 1:
        terms["kl"] = params.kl * kl_loss(output.logits, params.kl_temperature, detach=params.kl_detach)
    return terms


def _masked_softmax(x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill(~mask, -torch.inf).softmax(dim=1)


def _reference_weights(x: Tensor, mask: Tensor) -> Tensor:
    """exp(x_j - m) / (sum_j exp(x_j - m) + 1e-6) over the mask; m = max_j x_j, with x_j = 0 outside the mask.

    Negatives have x = -d, so m is the 0 of a masked place: at large distances the exponentials vanish beside
    1e-6, and with them the weights and the force that would push the negatives away.
    """
    x = x.masked_fill(~mask, 0)
    largest = x.max(dim=1, keepdim=True).values
    exponentials = (x - largest).exp().masked_fill(~mask, 0)  # [B, B]
    return exponentials / (exponentials.sum(dim=1, keepdim=True) + 1e-6)
