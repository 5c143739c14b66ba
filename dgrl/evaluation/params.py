"""The section ``evaluate``."""

from typing import Annotated, Literal

from pydantic import Field

from dgrl.config import Section


class EvaluateParams(Section):
    """How embeddings are compared and what is reported."""

    flip: bool = False  # (d) embed an image as the mean of itself and its mirror image
    cmc_length: Annotated[int, Field(ge=10)] = 20  # ranks of the CMC curves
    adapt: Literal["none", "whiten"] = "none"  # whiten: also after a whitening, see ``adaptation``
    rerank: bool = False  # (d) also rank by k-reciprocal re-ranking
    untrained: bool = False  # also evaluate the same network with random weights
    examples: Annotated[int, Field(ge=0)] = 8  # queries that the report shows
    seed: int = 0
