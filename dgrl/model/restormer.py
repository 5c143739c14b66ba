"""The Restormer block: MDTA and GDFN (paper III-B, eq. 1-4).

Reference: Zamir et al., Restormer: Efficient Transformer for High-Resolution Image Restoration, CVPR 2022.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelLayerNorm(nn.Module):
    """Layer normalisation over the channels of each pixel, with weight and bias.

    Shape: [B, C, H, W] -> [B, C, H, W].
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # a view of contiguous rows in the channels_last format
        x = F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class MDTA(nn.Module):
    """Multi-Dconv head transposed attention (eq. 1 and 2): attention between channels, linear in pixels.

    Shape: [B, C, H, W] -> [B, C, H, W]; C is a multiple of ``heads``.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))  # 1 / alpha of eq. 2, one per head
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_depthwise = nn.Conv2d(
            3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False
        )
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv_depthwise(self.qkv(x)).flatten(2).transpose(1, 2)  # [B, HW, 3C]
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, heads, HW, C/heads]
        q, k = F.normalize(q, dim=-2), F.normalize(k, dim=-2)
        attention = (k.transpose(-2, -1) @ q * self.temperature).softmax(dim=-2)  # [B, heads, C/h, C/h]
        out = (v @ attention.to(v.dtype)).transpose(1, 2).flatten(2)  # [B, HW, C], as channels_last has it
        projected: Tensor = self.project(out.transpose(1, 2).unflatten(-1, x.shape[2:]))
        return projected


class GDFN(nn.Module):
    """Gated-Dconv feed-forward network (eq. 3).

    Shape: [B, C, H, W] -> [B, C, H, W], through int(expansion * C) hidden channels, at least one.
    """

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = max(1, int(expansion * channels))
        self.expand = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.depthwise(self.expand(x)).chunk(2, dim=1)
        projected: Tensor = self.project(F.gelu(gate) * value)
        return projected


class RestormerBlock(nn.Module):
    """x = MDTA(LN(x)) + x; x = GDFN(LN(x)) + x (eq. 4).

    Shape: [B, C, H, W] -> [B, C, H, W].
    """

    def __init__(self, channels: int, heads: int = 4, expansion: float = 2.66) -> None:
        super().__init__()
        self.norm_attention = ChannelLayerNorm(channels)
        self.attention = MDTA(channels, heads)
        self.norm_feed_forward = ChannelLayerNorm(channels)
        self.feed_forward = GDFN(channels, expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        out: Tensor = x + self.feed_forward(self.norm_feed_forward(x))
        return out
