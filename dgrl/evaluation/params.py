"""``evaluate:`` of params.yaml."""

from typing import Annotated

from pydantic import Field

from dgrl.config import Section


class EvaluateParams(Section):
    """How embeddings are compared and what is reported."""

    flip: bool = False  # (d) embed a picture as the mean of itself and its mirror image
    cmc_length: Annotated[int, Field(ge=10)] = 20  # ranks of the CMC curves
    single_shot_draws: Annotated[int, Field(ge=0)] = 0  # seeded draws beside the exact expectation; 0 = none
    untrained: bool = False  # also evaluate the same network with random weights
    examples: Annotated[int, Field(ge=0)] = 8  # queries that the report shows
    seed: int = 0
