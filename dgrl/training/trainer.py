"""The training loop (paper IV-C)."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dgrl.device import default_device
from dgrl.errors import InputError
from dgrl.losses import loss_terms
from dgrl.model.network import DGRL
from dgrl.model.params import ModelParams
from dgrl.model.weights import initialise
from dgrl.progress import progress
from dgrl.random import named_seed
from dgrl.training.augment import augment, draw
from dgrl.training.checkpoint import load_checkpoint, save_checkpoint
from dgrl.training.image_bank import ImageBank
from dgrl.training.params import AugmentParams, LossParams, TrainParams
from dgrl.training.sampler import Indices, PersonBatchSampler

Log = Callable[[int, Mapping[str, float]], None]  # step, figures

logger = logging.getLogger(__name__)


class DivergedError(InputError):
    """The loss is no number any more."""


@dataclass
class Schedule:
    """Learning rate of a step: linear warm-up, then a decay every few epochs."""

    params: TrainParams
    steps_per_epoch: int

    def __call__(self, step: int) -> float:
        epoch = step // self.steps_per_epoch
        rate = self.params.learning_rate * self.params.decay_factor ** (epoch // self.params.decay_every)
        warmup = self.params.warmup_epochs * self.steps_per_epoch
        return rate * (0.01 + 0.99 * step / warmup) if step < warmup else rate


@dataclass
class Meter:
    """Loss terms of the steps since the last report, kept on the device so that no step waits for them."""

    terms: list[Tensor] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def report(self, names: list[str], last_step: int, rate: float, images: int) -> dict[str, float]:
        """Mean of each term, learning rate and images/s; empties the meter.

        Raises:
            DivergedError: naming the first step whose loss is not finite.
        """
        values = torch.stack(self.terms).cpu()  # [steps, terms]; the one synchronisation with the device
        finite = values.isfinite().all(dim=1)
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            shown = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, values[bad], strict=True))
            raise DivergedError(
                f"the loss is not finite at step {last_step - len(values) + 1 + bad} ({shown}; learning rate "
                f"{rate:.3g}); lower train.learning_rate or raise train.warmup_epochs; the last good "
                "checkpoint is kept"
            )
        seconds = time.perf_counter() - self.started
        figures = dict(zip([f"loss/{name}" for name in names], values.mean(dim=0).tolist(), strict=True))
        figures["loss/total"] = float(values.sum(dim=1).mean())
        figures["learning_rate"] = rate
        figures["images_per_second"] = images * len(values) / seconds
        self.terms, self.started = [], time.perf_counter()
        return figures


def train(
    hr: ImageBank,
    sr: ImageBank,
    model_params: ModelParams,
    loss_params: LossParams,
    augment_params: AugmentParams,
    params: TrainParams,
    checkpoint: Path,
    log: Log,
) -> tuple[DGRL, int]:
    """Train on pairs: the HR and the SR picture of the same image_id.

    A run that finds ``checkpoint`` goes on from it, and ends with the weights that the uninterrupted run
    would have had: bit for bit on a CPU with the same number of threads. Nothing random is carried from
    step to step (batches and augmentation are drawn from generators named by epoch and step), so the
    network, its average, the optimizer and the step are the whole state.

    Args:
        hr: HR pictures.
        sr: their SR twins.
        checkpoint: where to keep the state of the run.
        log: called with the step and its figures every ``log_every`` steps; after a resume, first with all
            that had been logged before.

    Returns:
        The trained network, which is the moving average of the weights if ``params.ema_decay`` is not 0, and
        its number of persons.

    Raises:
        InputError: if the pictures are not pairs, or there are too few persons for a batch.
        DivergedError: if the loss is not finite.
    """
    persons, labels = _classes(hr)
    twins = torch.from_numpy(_twins(hr, sr))
    device = default_device()
    dtype = _precision(params.precision, device)
    sampler = PersonBatchSampler(labels, params.persons_per_batch, params.pairs_per_person, params.seed)
    schedule = Schedule(params, sampler.batches_per_epoch)
    torch.manual_seed(named_seed("network", params.seed))
    model = DGRL(model_params, persons).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    initialise(model, model_params)
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=params.learning_rate,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        fused=True,
    )
    steps = params.epochs * sampler.batches_per_epoch
    average = _average(model, params.ema_decay)
    start, history = _resume(checkpoint, model, average, optimizer, log)
    logger.info(
        "train %d persons, %d pairs, %d steps on %s in %s", persons, len(labels), steps, device, dtype
    )

    targets = torch.from_numpy(labels).to(device)
    height, width = hr.images.shape[2:]
    names: list[str] = []
    meter = Meter()
    model.train()
    with progress("step") as display:
        bar = display.add_task("train", total=steps, completed=start)
        for step in range(start, steps):
            epoch, index = divmod(step, sampler.batches_per_epoch)
            if index == 0 or step == start:
                batches = sampler.epoch(epoch)
            batch = torch.from_numpy(batches[index])
            generator = torch.Generator().manual_seed(named_seed("augment", params.seed, step))
            drawn = draw(augment_params, len(batch), height, width, generator)
            hr_batch = augment(hr.take(batch, device), augment_params.pad, drawn)  # [B, 3, H, W]
            sr_batch = augment(sr.take(twins[batch], device), augment_params.pad, drawn)

            rate = schedule(step)
            optimizer.param_groups[0]["lr"] = rate
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                output = model(hr_batch, sr_batch)
            terms = loss_terms(output, targets[batch.to(device)], loss_params)
            optimizer.zero_grad()
            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
            if params.clip_norm:
                torch.nn.utils.clip_grad_norm_(model.parameters(), params.clip_norm)
            optimizer.step()
            if average:
                average.update_parameters(model)

            names = list(terms)
            meter.terms.append(torch.stack([term.detach() for term in terms.values()]))
            done = step + 1
            if done % params.log_every == 0 or done == steps or done % params.checkpoint_every == 0:
                figures = meter.report(names, step, rate, 2 * len(batch))
                history.append({"step": done, **figures})
                log(done, figures)
            if done % params.checkpoint_every == 0 or done == steps:
                save_checkpoint(
                    checkpoint,
                    {
                        "step": done,
                        "model": model.state_dict(),
                        "average": average.state_dict() if average else {},
                        "optimizer": optimizer.state_dict(),
                        "history": history,
                    },
                )
            display.update(bar, completed=done)
    if average:
        model.load_state_dict(average.module.state_dict())
    return model.eval(), persons


def _classes(bank: ImageBank) -> tuple[int, Indices]:
    """Number of persons and the class of each picture; classes follow the sorted person_id."""
    classes, labels = np.unique(bank.keys.person_id.to_numpy(str), return_inverse=True)
    return len(classes), labels.astype(np.int64)


def _twins(hr: ImageBank, sr: ImageBank) -> Indices:
    """The row of ``sr`` that belongs to each row of ``hr``."""
    if lonely := sorted(set(hr.keys.image_id) ^ set(sr.keys.image_id)):
        raise InputError(
            f"the HR and SR training tables are not twins: {len(lonely)} image_id without a twin, first "
            f"{lonely[0]}; run the split and cache_sr stages again"
        )
    rows = pd.Index(sr.keys.image_id).get_indexer(pd.Index(hr.keys.image_id))
    return np.asarray(rows, np.int64)


def _average(model: DGRL, decay: float) -> AveragedModel | None:
    """The exponential moving average of weights and batch norm statistics, which starts at ``model``."""
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]


def _precision(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:  # emulated bfloat16 is slower than float32
            fast = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _resume(
    checkpoint: Path, model: DGRL, average: AveragedModel | None, optimizer: torch.optim.Optimizer, log: Log
) -> tuple[int, list[dict[str, float]]]:
    state = load_checkpoint(checkpoint)
    if state is None:
        return 0, []
    model.load_state_dict(state["model"])
    if average:
        average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    logger.info("resume at step %d", state["step"])
    history: list[dict[str, float]] = state["history"]
    for figures in history:
        log(int(figures["step"]), {name: value for name, value in figures.items() if name != "step"})
    return int(state["step"]), history
