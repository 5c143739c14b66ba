"""The L2 norms of embeddings, before they are divided by them."""

import numpy as np
import numpy.typing as npt

from dgrl.errors import InputError


def require_norms(norms: npt.NDArray[np.floating], first: int, remedy: str) -> None:
    """Refuse embeddings that are 0, NaN or infinite: no cosine similarity tells such an image from others.

    Args:
        norms: of N embeddings, [N].
        first: the index of the first one's image.
        remedy: what to do about it, for the message.

    Raises:
        InputError: naming the index of the first such image.
    """
    wrong = ~(np.isfinite(norms) & (norms > 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"the embedding of image {first + row} has the norm {norms[row]}; {remedy}")
