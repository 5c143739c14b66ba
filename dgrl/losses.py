"""The losses of paper section III-D, all in float32: ID, weighted regularization triplet, smooth L1, KL."""

from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from dgrl.model.network import Output
from dgrl.training.params import LossParams

BRANCHES = ("", "_side2", "_side3")  # main, ' and '' of eq. 7 and 9


def id_loss(logits: Tensor, persons: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing (eq. 6), mean over the batch.

    Args:
        logits: [B, N].
        persons: class of each picture [B], int64.
        label_smoothing: xi.
    """
    return F.cross_entropy(logits.float(), persons, label_smoothing=label_smoothing)


def wrt_loss(embeddings: Tensor, persons: Tensor) -> Tensor:
    """Weighted regularization triplet loss (eq. 8), mean over the anchors.

    softplus(sum_j w+_j d_j - sum_k w-_k d_k) with w+ = softmax(d) over the other pictures of the anchor's
    person and w- = softmax(-d) over the pictures of others. The public AGW code subtracts a maximum taken
    over masked zeros, so that its negative weights underflow at large distances; a masked softmax does not.

    Args:
        embeddings: F before the batch norm [B, D].
        persons: [B], int64; each person has two pictures or more, and there are two persons or more.
    """
    distances = pairwise_distances(embeddings.float())
    same = persons[:, None] == persons[None, :]
    itself = torch.eye(len(persons), dtype=torch.bool, device=persons.device)
    positive = _masked_softmax(distances, same & ~itself)
    negative = _masked_softmax(-distances, ~same)
    margin = (positive * distances).sum(dim=1) - (negative * distances).sum(dim=1)
    return F.softplus(margin).mean()


def pairwise_distances(x: Tensor) -> Tensor:
    """Euclidean distances between the rows of [B, D]: [B, B], with a finite gradient at zero."""
    squares = x.square().sum(dim=1)
    squared = squares[:, None] + squares[None, :] - 2 * (x @ x.T)
    return squared.clamp(min=1e-12).sqrt()


def l1_loss(shallow_hr: Tensor, shallow_sr: Tensor) -> Tensor:
    """Smooth L1 between f_h and f_s (eq. 5), mean over all elements (d)."""
    return F.smooth_l1_loss(shallow_hr.float(), shallow_sr.float())


def kl_loss(logits: list[Tensor]) -> Tensor:
    """Sum over the ordered pairs of branches of KL(p_j || p_i) (eq. 11 and 12), batch mean, p_j detached (d).

    Args:
        logits: of each branch, [B, N].
    """
    log_p = [F.log_softmax(branch.float(), dim=1) for branch in logits]
    pairs = [
        F.kl_div(log_p[i], log_p[j].detach(), reduction="batchmean", log_target=True)
        for i, j in permutations(range(len(log_p)), 2)
    ]
    return torch.stack(pairs).sum()


def loss_terms(output: Output, persons: Tensor, params: LossParams) -> dict[str, Tensor]:
    """Every term of eq. 13, already weighted, so that their sum is the loss.

    Args:
        output: of ``DGRL.forward`` for B pairs.
        persons: class of each pair [B], int64.
        params: the ``loss`` section.

    Returns:
        Scalars by name: ``id``, ``id_side2``, ``id_side3``, ``wrt``, ..., ``l1``, ``kl``.
    """
    both = persons.repeat(2)  # HR and SR pictures
    id_weights = (1.0, params.alpha1, params.beta1)
    wrt_weights = (1.0, params.alpha2, params.beta2)
    terms = {
        f"id{name}": weight * id_loss(logits, both, params.label_smoothing)
        for name, weight, logits in zip(BRANCHES, id_weights, output.logits, strict=False)
    }
    if params.wrt:
        terms |= {
            f"wrt{name}": weight * wrt_loss(embeddings, both)
            for name, weight, embeddings in zip(BRANCHES, wrt_weights, output.embeddings, strict=False)
        }
    if params.l1:
        terms["l1"] = params.gamma * l1_loss(output.shallow_hr, output.shallow_sr)
    if params.kl and len(output.logits) > 1:
        terms["kl"] = kl_loss(output.logits)
    return terms


def _masked_softmax(x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill(~mask, -torch.inf).softmax(dim=1)
