"""How well a network finds persons who do not train: measured during a run, to choose what to keep of it."""

from collections.abc import Collection, Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dgrl.errors import InputError
from dgrl.evaluation.keys import with_keys
from dgrl.evaluation.ranking import rank
from dgrl.image_bank import ImageBank
from dgrl.model.inputs import normalise
from dgrl.model.network import DGRL, Stream

BATCH = 64  # images
RANK1, MEAN_AP = "held_out/rank1", "held_out/mAP"  # in a run's metrics
_SAME = ["person_id", "camera_id", "pixel_sha256"]  # of an image in several pairs

Rows = npt.NDArray[np.intp]


class HeldOut:
    """Metrics of persons who do not train: each of their SR images against their HR images by other cameras.

    Args:
        hr: HR images; keys person_id, camera_id, subset and pixel_sha256.
        sr: their SR twins, likewise.
        persons: those who do not train.
        device: where the network is.

    Raises:
        InputError: if two cameras saw none of them.
    """

    def __init__(self, hr: ImageBank, sr: ImageBank, persons: Collection[str], device: torch.device) -> None:
        self._hr, self._sr, self._device = hr, sr, device
        self._gallery, self._queries = _rows(hr, persons), _rows(sr, persons)
        gallery, queries = hr.keys.iloc[self._gallery], sr.keys.iloc[self._queries]
        pairs = queries[["person_id", "camera_id"]].merge(gallery[["person_id", "camera_id"]], on="person_id")
        if not (pairs.camera_id_x != pairs.camera_id_y).any():
            raise InputError(
                f"train.eval_every finds held-out persons by another camera, and two cameras saw none of the "
                f"{len(persons)} persons; raise train.held_out or set train.eval_every to 0"
            )

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """``RANK1``, single-shot, and ``MEAN_AP``, in percent, of a network in evaluation mode."""
        queries = self._embed(model, self._sr, self._queries, "sr")
        gallery = self._embed(model, self._hr, self._gallery, "hr")
        keys = self._sr.keys.iloc[self._queries], self._hr.keys.iloc[self._gallery]
        ranking = rank(*with_keys(queries, keys[0], gallery, keys[1]))
        return {RANK1: float(ranking.single_shot_cmc[0]), MEAN_AP: ranking.mean_ap}

    def _embed(
        self, model: nn.Module, bank: ImageBank, rows: Rows, stream: Stream
    ) -> npt.NDArray[np.float32]:
        network = cast(DGRL, model)
        with torch.inference_mode():
            parts = [
                network.embed(normalise(bank.take(part, self._device)), stream)
                for part in torch.split(torch.from_numpy(rows), BATCH)
            ]
            return np.asarray(torch.cat(parts).cpu().numpy())


def best(history: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The measurement with the highest ``MEAN_AP``; of equal ones the first."""
    return max((each for each in history if MEAN_AP in each), key=lambda each: each[MEAN_AP])


def _rows(bank: ImageBank, persons: Collection[str]) -> Rows:
    """Those of some persons, each image once."""
    chosen = bank.keys.person_id.isin(list(persons)) & ~bank.keys.duplicated(_SAME)
    return np.flatnonzero(chosen)
