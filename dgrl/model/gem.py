"""Generalized-mean (GeM) pooling (paper III-C).

Reference: Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, TPAMI 2019.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgrl.model.precision import at_least_float32


class GeM(nn.Module):
    """(mean x^p)^(1/p) over the pixels, with a learnable p, in float32 or better.

    Shape: [B, C, H, W] -> [B, C].
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # x^p = exp(p log x): p's gradient needs log x, which pow would take once more
        logarithms = at_least_float32(F.threshold(x, self.eps, self.eps)).log()
        total = torch.logsumexp(self.p * logarithms, dim=(2, 3))
        return ((total - math.log(x.shape[2] * x.shape[3])) / self.p).exp()
