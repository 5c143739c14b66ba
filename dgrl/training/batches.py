"""The batches of a run: which pairs, and what augmentation makes of them."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dgrl.errors import InputError
from dgrl.image_bank import ImageBank
from dgrl.parallel.device import to_device
from dgrl.random import named_seed
from dgrl.training.augment import augment, draw
from dgrl.training.distributed import Ranks
from dgrl.training.params import AugmentParams, TrainParams
from dgrl.training.sampler import Indices, PersonBatchSampler


@dataclass(frozen=True)
class Batch:
    """B pairs, person by person.

    Attributes:
        hr: [B, 3, H, W] float32, augmented and normalised, channels_last.
        sr: as ``hr``, with the same augmentation.
        targets: class of each pair [B], int64.
    """

    hr: Tensor
    sr: Tensor
    targets: Tensor


class Batches:
    """The batches of a run by the number of their step, a pure function of it; each rank has its part.

    Args:
        hr: HR images.
        sr: their SR twins, as many for each HR image; one of each is sampled an epoch.
        augment_params: the ``augment`` section.
        params: the ``train`` section.
        device: where the batches are made.
        ranks: the processes that share each batch.
        held_out: persons who do not train.

    Raises:
        InputError: if the images are not pairs, there are too few persons for a batch, or the ranks cannot
            share it.
    """

    def __init__(
        self,
        hr: ImageBank,
        sr: ImageBank,
        augment_params: AugmentParams,
        params: TrainParams,
        device: torch.device,
        ranks: Ranks,
        held_out: Collection[str] = (),
    ) -> None:
        if params.persons_per_batch % ranks.count:
            raise InputError(
                f"train.persons_per_batch = {params.persons_per_batch} cannot be shared by {ranks.count} "
                "processes; make it a multiple of them"
            )
        self.persons, labels = _classes(hr, held_out)
        self.sampler = PersonBatchSampler(
            labels, params.persons_per_batch, params.pairs_per_person, params.seed
        )
        self.per_epoch = self.sampler.batches_per_epoch
        self._hr, self._sr, self._twins = hr, sr, torch.from_numpy(_twins(hr, sr))
        self._targets = torch.from_numpy(labels).to(device)
        self._augment, self._seed, self.device, self._ranks = augment_params, params.seed, device, ranks
        self._names = hr.keys.image_id.tolist()
        self._epoch = -1
        self._batches: list[Indices] = []
        self._twin = self._twins[:, 0]  # of each HR image, in this epoch

    def __call__(self, step: int) -> Batch:
        """This rank's part of the batch of a step."""
        epoch, index = divmod(step, self.per_epoch)
        if self._epoch != epoch:
            self._start(epoch)
        pairs = torch.from_numpy(self._batches[index])
        height, width = self._hr.images.shape[2:]
        generator = torch.Generator().manual_seed(named_seed("augment", self._seed, step))
        drawn = draw(self._augment, len(pairs), height, width, generator)
        part = self._ranks.part(len(pairs))
        pairs, drawn = pairs[part], drawn[part]
        return Batch(
            augment(self._hr.take(pairs, self.device), self._augment.pad, drawn),
            augment(self._sr.take(self._twin[pairs], self.device), self._augment.pad, drawn),
            self._targets[to_device(pairs, self.device)],
        )

    def _start(self, epoch: int) -> None:
        """The batches of an epoch, and the twin of each HR image, by a draw of the image's own."""
        self._epoch, self._batches = epoch, self.sampler.epoch(epoch)
        count = self._twins.shape[1]
        if count > 1:
            draws = [named_seed("twin", self._seed, epoch, name) % count for name in self._names]
            self._twin = self._twins[torch.arange(len(draws)), torch.tensor(draws)]


def hold_out(persons: Iterable[str], share: float, seed: int) -> list[str]:
    """Persons to keep out of training: a share of them, drawn by name, and at least one if any."""
    names = sorted(set(persons), key=lambda person: (named_seed("held_out", seed, person), person))
    count = math.ceil(round(share * len(names), 9))  # 0.07 * 100 is 7.000000000000001
    return sorted(names[:count])


def _classes(bank: ImageBank, held_out: Collection[str]) -> tuple[int, Indices]:
    """Number of persons and the class of each image, -1 if held out; classes follow the sorted person_id."""
    persons = bank.keys.person_id.astype(str)
    classes = pd.Index(sorted(set(persons) - set(held_out)))
    return len(classes), classes.get_indexer(pd.Index(persons.tolist())).astype(np.int64)


def _twins(hr: ImageBank, sr: ImageBank) -> Indices:
    """The rows of ``sr`` that belong to each row of ``hr``: [N, twins]."""
    rows = pd.Index(hr.keys.image_id).get_indexer(pd.Index(sr.keys.image_id))
    counts = sr.keys.image_id.value_counts().reindex(hr.keys.image_id, fill_value=0)
    lonely = {*sr.keys.image_id[rows < 0], *counts.index[counts != max(counts.max(), 1)]}
    if lonely:
        raise InputError(
            f"the HR and SR training tables are not twins: {len(lonely)} image_id without a twin, first "
            f"{min(lonely)}; write both again"
        )
    return np.argsort(rows, kind="stable").reshape(len(hr), -1)
