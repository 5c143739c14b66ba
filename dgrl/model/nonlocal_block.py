"""The dot-product non-local block of the feature embedding module (paper III-C, Table III).

Reference: Wang et al., Non-local Neural Networks, CVPR 2018.
"""

from torch import Tensor, nn


class NonLocalBlock(nn.Module):
    """x + BN(W(softmax-free attention)): y_i = 1/N sum_j (theta(x_i) . phi(x_j)) g(x_j).

    The batch norm of W starts at zero, so the block is the identity at the start and can be put into
    pretrained layers.

    Shape: [B, C, H, W] -> [B, C, H, W].

    Args:
        channels: C.
        inner: width of theta, phi and g; default C/2 (AGW's public code has 1, by an accident of ``r // r``).
    """

    def __init__(self, channels: int, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or channels // 2
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        norm = nn.BatchNorm2d(channels)  # whose bias is zero already
        nn.init.zeros_(norm.weight)
        self.project = nn.Sequential(nn.Conv2d(inner, channels, 1), norm)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.shape[2:]
        theta, phi, g = (  # [B, N, inner], contiguous rows in the channels_last format
            part(x).flatten(2).transpose(1, 2) for part in (self.theta, self.phi, self.g)
        )
        phi = phi / phi.shape[1]
        # Without a softmax the product is associative: the smaller of the two squares comes between.
        if theta.shape[1] < theta.shape[2]:
            y = theta @ phi.transpose(1, 2) @ g  # N x N
        else:
            y = theta @ (phi.transpose(1, 2) @ g)  # inner x inner
        projected: Tensor = self.project(y.transpose(1, 2).unflatten(-1, pixels))
        return x + projected
