"""The loops of others, with our network, losses and batches: naive, torchreid's and fast-reid's."""

import collections.abc
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from training_case import AUGMENT, LOSS, REPORTS, WARMUP, Case

from dgrl.model.inputs import MEAN, STD
from dgrl.model.losses import loss_terms
from dgrl.model.network import DGRL
from dgrl.random import named_seed
from dgrl.tables import ImageRow, read_rows

# fast-reid imports it from there, as Python before 3.10 had it; here, so that a loader's workers have it too
collections.Mapping = collections.abc.Mapping  # type: ignore[attr-defined]


class Pairs(Dataset[tuple[Tensor, Tensor, int]]):
    """Pairs decoded and augmented one image at a time; the tables' bytes are in memory."""

    def __init__(self, case: Case) -> None:
        self.rows = list(zip(read_rows(case.hr), read_rows(case.sr), case.labels().tolist(), strict=True))
        size = case.model.height, case.model.width
        self.transform = transforms.Compose(
            [
                transforms.Resize(size),
                transforms.RandomHorizontalFlip(AUGMENT.flip),
                transforms.Pad(AUGMENT.pad),
                transforms.RandomCrop(size),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
                transforms.RandomErasing(AUGMENT.erase),
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        hr, sr, label = self.rows[index]
        return self._image(hr), self._image(sr), label

    def _image(self, row: ImageRow) -> Tensor:
        image: Tensor = self.transform(PIL.Image.open(io.BytesIO(row.data)).convert("RGB"))
        return image


def naive(case: Case, workers: int) -> list[float]:
    """The loop that public code has."""
    model, optimizer = plain_network(case)
    ends = []
    for hr, sr, persons in loader(case, Pairs(case), workers):
        output = model(hr.to(case.device), sr.to(case.device))
        loss = total(loss_terms(output, persons.to(case.device), LOSS))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        ends.append(time.perf_counter())
    return speeds_between(ends, case)


def plain_network(case: Case) -> tuple[DGRL, torch.optim.SGD]:
    """In float32 and contiguous NCHW, and SGD as it comes."""
    torch.manual_seed(named_seed("naive"))
    model = DGRL(case.model, len(case.sampler().pairs_of)).to(case.device).train()
    params = case.train
    return model, torch.optim.SGD(
        model.parameters(), params.learning_rate, params.momentum, weight_decay=params.weight_decay
    )


def loader(
    case: Case,
    pairs: Dataset[Any],
    workers: int,
    make: Callable[..., DataLoader[Any]] = DataLoader,
    **options: Any,
) -> DataLoader[Any]:
    """The batches of our sampler: one, and those of the reports."""
    drawn = (batch.tolist() for epoch in count() for batch in case.sampler().epoch(epoch))
    return make(
        dataset=pairs,
        batch_sampler=list(islice(drawn, 1 + (WARMUP + REPORTS) * case.log_every)),
        num_workers=workers,
        pin_memory=case.device.type == "cuda",
        **options,
    )


def speeds_between(ends: list[float], case: Case) -> list[float]:
    """Images/s of blocks of as many steps as a report of ours has, from the ends of the steps."""
    seconds = np.diff(ends[:: case.log_every])[WARMUP:]
    return [2 * case.pairs * case.log_every / each for each in seconds]


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


# ---- torchreid and fast-reid ----


class Twins(Dataset[dict[str, Any]]):
    """Pairs of the images of a peer's two datasets, whose items are dictionaries."""

    def __init__(self, hr: Any, sr: Any, image: str, person: str) -> None:
        self.hr, self.sr, self.image, self.person = hr, sr, image, person

    def __len__(self) -> int:
        return len(self.hr)

    def __getitem__(self, index: int) -> dict[str, Any]:
        hr, sr = self.hr[index], self.sr[index]
        return {"hr": hr[self.image], "sr": sr[self.image], "person": hr[self.person]}


def image_files(case: Case, folder: Path) -> Iterator[list[tuple[str, int, int]]]:
    """Of HR and of SR: file, person and camera of each image, as the peers want them."""
    for table in (case.hr, case.sr):
        items = []
        for row, label in zip(read_rows(table), case.labels().tolist(), strict=True):
            file = folder / f"{table.name} {row.image_id}"
            file.write_bytes(row.data)
            items.append((str(file), label, 0))
        yield items


def torchreid(case: Case, workers: int) -> list[float]:
    """Its Engine.train with its datasets, transforms and meters."""
    data, module = import_module("torchreid.data"), import_module("torchreid.engine")
    chosen = ["random_flip", "random_crop", "random_erase"]
    transform, _ = data.transforms.build_transforms(case.model.height, case.model.width, chosen)
    model, optimizer = plain_network(case)
    ends = []

    def forward_backward(batch: dict[str, Tensor]) -> dict[str, float]:
        """As its engines have it, for pairs and with our losses."""
        output = model(batch["hr"].to(case.device), batch["sr"].to(case.device))
        terms = loss_terms(output, batch["person"].to(case.device), LOSS)
        summary = {name: term.item() for name, term in terms.items()}
        optimizer.zero_grad()
        total(terms).backward()
        optimizer.step()
        ends.append(time.perf_counter())
        return summary

    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        hr, sr = (
            data.ImageDataset(items, items, items, transform=transform, verbose=False)
            for items in image_files(case, Path(folder))
        )
        batches = loader(case, Twins(hr, sr, "img", "pid"), workers)
        engine = module.Engine(SimpleNamespace(train_loader=batches, test_loader=None))
        engine.register_model("model", model, optimizer)
        engine.model, engine.epoch, engine.max_epoch = model, 0, 1
        engine.forward_backward = forward_backward
        engine.train()
    return speeds_between(ends, case)


def fastreid(case: Case, workers: int) -> list[float]:
    """Its SimpleTrainer with its datasets, transforms, collator and metrics; on a GPU also its loader."""
    data, engine = import_module("fastreid.data"), import_module("fastreid.engine")
    config = import_module("fastreid.config").get_cfg()
    config.INPUT.SIZE_TRAIN = [case.model.height, case.model.width]
    for chosen in (config.INPUT.FLIP, config.INPUT.PADDING, config.INPUT.REA):
        chosen.ENABLED = True
    transform = data.transforms.build_transforms(config)
    make = partial(data.build.DataLoaderX, 0) if case.device.type == "cuda" else DataLoader
    model, optimizer = plain_network(case)
    clock, ends = engine.HookBase(), []
    clock.after_step = lambda: ends.append(time.perf_counter())
    with tempfile.TemporaryDirectory() as folder:
        hr, sr = (data.CommDataset(items, transform) for items in image_files(case, Path(folder)))
        twins = Twins(hr, sr, "images", "targets")
        batches = loader(case, twins, workers, make, collate_fn=data.build.fast_batch_collator)
        trainer = engine.SimpleTrainer(LossesOf(model, case.device), batches, optimizer, None)
        trainer.register_hooks([clock])
        trainer.train(0, 1, len(batches))
    return speeds_between(ends, case)


class LossesOf(nn.Module):
    """A network as fast-reid's are: from images of 0 to 255 to loss terms."""

    def __init__(self, network: DGRL, device: torch.device) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = (
            255 * torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD)
        )

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        device = self.mean.device
        hr, sr = ((batch[name].to(device) - self.mean) / self.std for name in ("hr", "sr"))
        return loss_terms(self.network(hr, sr), batch["person"].to(device), LOSS)


PEERS = {"naive": naive, "torchreid": torchreid, "fastreid": fastreid}
