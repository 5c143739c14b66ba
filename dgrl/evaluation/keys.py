"""Who and where the images of embeddings show, as integer codes."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from dgrl.evaluation.ranking import DISTRACTOR as NOBODY
from dgrl.evaluation.ranking import Embeddings
from dgrl.tables import DISTRACTOR


def with_keys(
    query: npt.NDArray[np.float32],
    query_keys: pd.DataFrame,
    gallery: npt.NDArray[np.float32],
    gallery_keys: pd.DataFrame,
) -> tuple[Embeddings, Embeddings]:
    """Features with common integer codes of persons and cameras.

    Args:
        query: [N, D], unit length.
        query_keys: N rows with person_id, camera_id and subset.
        gallery: [M, D], unit length.
        gallery_keys: M rows; those of subset ``distractor`` show nobody.
    """
    keys = pd.concat([query_keys, gallery_keys])
    persons = pd.factorize(keys.person_id, sort=True)[0]
    persons[(keys.subset == DISTRACTOR).to_numpy()] = NOBODY
    cameras = pd.factorize(keys.camera_id, sort=True)[0]
    cut = len(query_keys)
    return (
        Embeddings(query, persons[:cut], cameras[:cut]),
        Embeddings(gallery, persons[cut:], cameras[cut:]),
    )
