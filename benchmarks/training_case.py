"""What the loops of training.py and training_peers.py train: a network, and tables of pairs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dgrl.datasets.synthetic import SyntheticParams, images
from dgrl.image_bank import ImageBank, load_bank, resize
from dgrl.mlr.degrade import downsample
from dgrl.model.params import LossParams, ModelParams
from dgrl.random import named_generator
from dgrl.tables import ImageRow, read_keys, write_table
from dgrl.training.params import AugmentParams, TrainParams
from dgrl.training.sampler import Indices, PersonBatchSampler

WARMUP, REPORTS = 4, 3  # of each turn: reports that do not count, and that do
LOSS, AUGMENT = LossParams(), AugmentParams()


@dataclass(frozen=True)
class Case:
    """What is trained, where, on which tables."""

    model: ModelParams
    train: TrainParams
    log_every: int  # optimizer steps
    device: torch.device
    hr: Path
    sr: Path

    @property
    def pairs(self) -> int:
        """In a batch."""
        return self.train.persons_per_batch * self.train.pairs_per_person

    def labels(self) -> Indices:
        """The class of each pair."""
        return np.unique(read_keys(self.hr).person_id, return_inverse=True)[1].astype(np.int64)

    def sampler(self) -> PersonBatchSampler:
        params = self.train
        return PersonBatchSampler(
            self.labels(), params.persons_per_batch, params.pairs_per_person, params.seed
        )

    def banks(self) -> tuple[ImageBank, ImageBank]:
        """On the GPU, or in memory."""
        size = self.model.height, self.model.width
        device = self.device if self.device.type == "cuda" else None
        return load_bank(self.hr, *size, device=device), load_bank(self.sr, *size, device=device)

    def wait(self) -> None:
        """For what the device still computes."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def write_tables(case: Case) -> int:
    """Write four images of each of four times as many persons as a batch takes, and their SR twins."""
    rows = list(images(SyntheticParams(persons=4 * case.train.persons_per_batch, images_per_camera=1)))
    write_table(case.hr, rows)
    return write_table(case.sr, map(twin, rows))


def twin(row: ImageRow) -> ImageRow:
    """The image after a down-sampling by 2, 3 or 4 and bicubic interpolation."""
    factor = int(named_generator("twin", row.image_id).integers(2, 5))
    low = downsample(row.pixels(), factor)
    return ImageRow.from_pixels(
        resize(low, row.height, row.width),
        row.path,
        image_id=row.image_id,
        person_id=row.person_id,
        camera_id=row.camera_id,
        subset=row.subset,
        factor=factor,
    )
