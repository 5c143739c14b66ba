"""Generalized-mean (GeM) pooling (paper III-C).

Reference: Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, TPAMI 2019.
"""

import torch
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
        return at_least_float32(x).clamp(min=self.eps).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)
