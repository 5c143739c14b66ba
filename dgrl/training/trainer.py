"""The training loop (paper IV-C)."""

import copy
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dgrl.errors import DivergedError
from dgrl.progress import progress
from dgrl.training.batches import Batches
from dgrl.training.compiled import compile_network, trial_step
from dgrl.training.distributed import ALONE, Ranks
from dgrl.training.held_out import best
from dgrl.training.params import TrainParams
from dgrl.weights.checkpoint import load_checkpoint, require_converged, save_checkpoint

Log = Callable[[int, Mapping[str, float]], None]  # step, metrics
Losses = Callable[[Any, Tensor], dict[str, Tensor]]  # a network's output, class of each pair: terms
Measure = Callable[[nn.Module], dict[str, float]]  # a network in evaluation mode: metrics of held-out persons

DIVERGED = (
    "lower train.learning_rate or raise train.warmup_epochs; the last good checkpoint is kept"  # what to do
)

logger = logging.getLogger(__name__)


def learning_rate(params: TrainParams, steps_per_epoch: int, step: int) -> float:
    """The learning rate of an optimizer step, the first being 0: a warm-up, then a decay every few epochs.

    The warm-up is linear from a hundredth, or at the constant ``warmup_rate``.
    """
    epoch = step // steps_per_epoch
    rate = params.learning_rate * params.decay_factor ** (epoch // params.decay_every)
    warmup = params.warmup_epochs * steps_per_epoch
    if step >= warmup:
        return rate
    return params.warmup_rate or rate * (0.01 + 0.99 * step / warmup)


@dataclass
class Meter:
    """Loss terms of the steps since the last report, kept on the device so that no step waits for them."""

    ranks: Ranks
    names: list[str] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Keep the terms of a step."""
        self.names = list(terms)
        self.steps.append(torch.stack([term.detach() for term in terms.values()]))

    def report(self, done: int, rate: float, images: int) -> dict[str, float]:
        """Mean of each term over steps and ranks, learning rate and images/s; empties the meter.

        Args:
            done: optimizer steps since the start of the run.
            rate: the learning rate of the last of them.
            images: of a step, over all ranks.

        Raises:
            DivergedError: naming the first step whose loss is not finite.
        """
        # [steps, terms]; the one synchronisation with the device
        values = self.ranks.mean(torch.stack(self.steps)).cpu()
        finite = values.isfinite().all(dim=1)
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            terms = zip(self.names, values[bad], strict=True)
            shown = ", ".join(f"{name} {value:.4g}" for name, value in terms)
            raise DivergedError(
                f"the loss is not finite at step {done - len(values) + bad} ({shown}; learning rate "
                f"{rate:.3g}); {DIVERGED}"
            )
        seconds = time.perf_counter() - self.started
        means = values.mean(dim=0).tolist()
        metrics = {f"loss/{name}": mean for name, mean in zip(self.names, means, strict=True)}
        metrics["loss/total"] = float(values.sum(dim=1).mean())
        metrics["learning_rate"] = rate
        metrics["images_per_second"] = images * len(values) / seconds
        self.steps = []
        self.restart()
        return metrics

    def restart(self) -> None:
        """Count no time before now."""
        self.started = time.perf_counter()


@dataclass
class Run:
    """The state of a run, and so what a checkpoint holds.

    ``average`` is the exponential moving average (EMA) of the weights and the batch norms' statistics over
    some 1 / (1 - ``ema_decay``) steps, from the first on; empty where it is not wanted. ``kept`` are the
    weights of the best epoch so far; empty where the last is kept.
    """

    model: nn.Module
    average: dict[str, Tensor]
    ema_decay: float
    optimizer: torch.optim.SGD
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    kept: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(
        cls, model: nn.Module, params: TrainParams, device: torch.device, pretrained: Collection[str] = ()
    ) -> "Run":
        """The state before the first step; ``pretrained`` are names as in ``train``."""
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        groups: dict[float, list[nn.Parameter]] = {}  # by learning rate, relative to that of the schedule
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                relative = params.pretrained_rate if name in pretrained else 1.0
                groups.setdefault(relative, []).append(parameter)
        optimizer = torch.optim.SGD(
            [{"params": parameters, "relative": relative} for relative, parameters in groups.items()],
            lr=params.learning_rate,
            momentum=params.momentum,
            weight_decay=params.weight_decay,
            nesterov=params.nesterov,
            fused=True,
        )
        average = {
            name: tensor.clone()
            for name, tensor in model.state_dict().items()
            if params.ema_decay and tensor.is_floating_point()
        }
        return cls(model, average, params.ema_decay, optimizer)

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint, if there is one."""
        state = load_checkpoint(checkpoint)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        for name, tensor in self.average.items():
            tensor.copy_(state["average"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.history, self.kept = state["step"], state["history"], state["kept"]
        logger.info("resume at step %d", self.step)

    def save(self, checkpoint: Path) -> None:
        """Write a checkpoint, unless a weight is not finite (DivergedError)."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "kept": self.kept,
        }
        save_checkpoint(checkpoint, state, self.place(), DIVERGED)

    def place(self) -> str:
        """The step and its learning rate, for messages."""
        group = self.optimizer.param_groups[0]
        return f"step {self.step} (learning rate {group['lr'] / group['relative']:.3g})"

    def weights(self) -> dict[str, Tensor]:
        """Those that the run would end with now: the average, if there is one."""
        return {**self.model.state_dict(), **self.average}

    def measure(self, measure: Measure) -> dict[str, float]:
        """Metrics of a copy of the network with ``weights``; DivergedError if one of these is not finite."""
        weights = self.weights()
        require_converged(weights, self.place(), DIVERGED)
        network = copy.deepcopy(self.model)
        network.load_state_dict(weights)
        return measure(network.eval())

    def keep_if_best(self) -> None:
        """Keep the weights, if no earlier measurement was as good as the one just logged."""
        if best(self.history) is self.history[-1]:
            self.kept = {name: tensor.clone() for name, tensor in self.weights().items()}

    def step_optimizer(self, rate: float) -> None:
        """Take an optimizer step at a learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["relative"]
        self.optimizer.step()

    def update_ema(self) -> None:
        """Move the average towards the weights; torch's AveragedModel would wait for the GPU to do it."""
        weights = self.model.state_dict()
        update = get_ema_multi_avg_fn(self.ema_decay if self.step else 0.0)  # type: ignore[no-untyped-call]
        update(list(self.average.values()), [weights[name] for name in self.average], None)


def train(
    model: nn.Module,
    losses: Losses,
    batches: Batches,
    params: TrainParams,
    checkpoint: Path,
    log: Log,
    ranks: Ranks = ALONE,
    *,
    pretrained: Collection[str] = (),
    measure: Measure | None = None,
    log_every: int = 20,
    checkpoint_every: int = 100,
) -> list[dict[str, float]]:
    """Train a network on HR/SR pairs.

    A run that finds ``checkpoint`` goes on from it, and ends with the weights that the uninterrupted run
    would have had: bit for bit on a CPU with the same number of threads. Nothing random is carried from
    step to step (batches and augmentation are drawn from generators named by epoch and step), so the
    network, its average, the optimizer and the step are the whole state.

    Args:
        model: from HR and SR images [B, 3, H, W] to the output that ``losses`` takes; trained in place, and
            left in evaluation mode, with the EMA of the weights if ``params.ema_decay`` is not 0: those of
            the last epoch, or of the ``best`` one if ``params.keep`` says so.
        losses: from that output and the class of each pair [B] to the weighted terms of the loss.
        batches: those of each step.
        params: the optimizer, its schedule, and how far to go.
        checkpoint: where to keep the state of the run.
        log: called, in every rank, with the step and its metrics every ``log_every`` steps; after a resume,
            first with all that had been logged before.
        ranks: the processes that share the batches; rank 0 writes the checkpoint.
        pretrained: names of the parameters that learn at ``params.pretrained_rate`` times the learning rate,
            and of the batch norms' statistics that ``params.freeze_batch_norm`` freezes.
        measure: called, in rank 0, every ``params.eval_every`` epochs and after the last; None: never.
        log_every: optimizer steps.
        checkpoint_every: optimizer steps.

    Returns:
        The metrics of each logged step, and ``step`` itself.

    Raises:
        DivergedError: if the loss or a weight is not finite.
    """
    device = batches.device
    torch.backends.cudnn.benchmark = True  # every step has the same shapes: the fastest algorithm of each
    dtype = _precision(params.precision, device)
    model.train()
    if params.freeze_batch_norm:
        freeze_batch_norms(model, pretrained)
    run = Run.start(model, params, device, pretrained)
    run.resume(checkpoint)

    def terms_of(network: nn.Module) -> dict[str, Tensor]:
        """The loss terms of the next step."""
        batch = batches(run.step)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = network(batch.hr, batch.sr)
        return losses(output, batch.targets)

    network = ranks.wrap(model, params.sync_batch_norm)
    network = compile_network(network, params.compile, partial(trial_step, model, terms_of), dtype)
    steps = params.epochs * batches.per_epoch
    eval_every = params.eval_every * batches.per_epoch if measure else 0
    images = 2 * params.persons_per_batch * params.pairs_per_person
    for metrics in run.history:
        log(int(metrics["step"]), {name: value for name, value in metrics.items() if name != "step"})
    where = device.type if ranks.count == 1 else f"{ranks.count} x {device.type}"
    logger.info("train %d persons, %d steps on %s in %s", batches.persons, steps, where, dtype)
    meter = Meter(ranks)
    with progress("step") as display:
        bar = display.add_task("train", total=steps, completed=run.step)
        while run.step < steps:
            terms = terms_of(network)
            rate = learning_rate(params, batches.per_epoch, run.step)
            run.optimizer.zero_grad()
            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
            if params.clip_norm:
                torch.nn.utils.clip_grad_norm_(model.parameters(), params.clip_norm)
            run.step_optimizer(rate)
            if run.average:
                run.update_ema()
            run.step += 1

            meter.add(terms)
            save = run.step % checkpoint_every == 0 or run.step == steps
            evaluate = eval_every > 0 and (run.step % eval_every == 0 or run.step == steps)
            if save or evaluate or run.step % log_every == 0:
                metrics = meter.report(run.step, rate, images)
                if measure and evaluate:
                    metrics |= ranks.broadcast(None if ranks.rank else run.measure(measure))
                    meter.restart()
                run.history.append({"step": run.step, **metrics})
                if evaluate and params.keep == "best":
                    run.keep_if_best()
                log(run.step, metrics)
            if save and ranks.rank == 0:
                run.save(checkpoint)
            display.update(bar, completed=run.step)
    model.load_state_dict(run.kept or run.weights())
    model.eval()
    return run.history


def freeze_batch_norms(model: nn.Module, pretrained: Collection[str]) -> None:
    """Have the batch norms whose statistics are pretrained compute as in evaluation, and not learn."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and f"{name}.running_mean" in pretrained:
            module.eval().requires_grad_(False)


def _precision(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:  # emulated bfloat16 is slower than float32
            fast = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32
