"""The group-aware learning network, GALN (paper III-C, figure 4).

Reference: Kim et al., GroupFace: Learning Latent Groups and Constructing Group-based Representations for Face
Recognition, CVPR 2020, from which the instance, group and probability layers come.
"""

from torch import Tensor, nn


class GALN(nn.Module):
    """F = F_x + sum_k p_k F_x^{G_k}.

    The instance representation F_x and the K group representations are parallel fully connected layers on
    the pooled feature; the group probabilities come from F_x through two layers and a softmax.

    Shape: [B, C] -> [B, D].
    """

    def __init__(self, channels: int, dimension: int, groups: int, hidden: int) -> None:
        super().__init__()
        self.instance = nn.Linear(channels, dimension)
        self.groups = nn.Linear(channels, groups * dimension)  # the K layers as one matrix product
        self.probability = nn.Sequential(
            nn.Linear(dimension, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, groups), nn.Softmax(dim=1)
        )

    def forward(self, pooled: Tensor) -> Tensor:
        instance: Tensor = self.instance(pooled)  # [B, D]
        probability = self.probability(instance)  # [B, K]
        groups: Tensor = self.groups(pooled).unflatten(1, (probability.shape[1], -1))  # [B, K, D]
        weighted: Tensor = (probability.unsqueeze(1).to(groups.dtype) @ groups).squeeze(1)  # [B, D]
        return instance + weighted
