"""``evaluate:`` of params.yaml."""

from typing import Annotated

from pydantic import Field

from dgrl.config import Section


class EvaluateParams(Section):
    """How embeddings are compared and what is reported."""

    flip: bool = False  # (d) embed an image as the mean of itself and its mirror image
    cmc_length: Annotated[int, Field(ge=10)] = 20  # ranks of the CMC curves
    single_shot_draws: Annotated[int, Field(ge=0)] = 0  # seeded draws beside the exact expectation; 0 = none
    rerank: bool = False  # (d) also rank by k-reciprocal re-ranking
    rerank_k1: Annotated[int, Field(ge=1)] = 20  # neighbours; defaults of Zhong et al., CVPR 2017
    rerank_k2: Annotated[int, Field(ge=1)] = 6  # neighbours that an encoding is averaged over
    rerank_lambda: Annotated[float, Field(ge=0, le=1)] = 0.3  # share of the original distance
    untrained: bool = False  # also evaluate the same network with random weights
    examples: Annotated[int, Field(ge=0)] = 8  # queries that the report shows
    seed: int = 0
