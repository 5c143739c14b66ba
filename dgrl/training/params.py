"""The sections ``augment`` and ``train``; without torch, which takes seconds to import.

The defaults are the paper's (IV-C); (d) marks what it leaves open.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dgrl.config import Section

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
CompileMode = Literal["none", "default", "cuda_graphs"]


class AugmentParams(Section):
    """The section ``augment``; all of it (d), the paper names no augmentation."""

    flip: Probability = 0.5  # probability of a horizontal flip
    pad: Annotated[int, Field(ge=0)] = 10  # pixels of black border before the random crop
    erase: Probability = 0.5  # probability of random erasing


class TrainParams(Section):
    """The section ``train``; the defaults are the paper's (IV-C), (d) marks what it leaves open."""

    seed: int = 0
    persons_per_batch: Annotated[int, Field(ge=2)] = 16
    pairs_per_person: Positive = 3
    epochs: Annotated[int, Field(ge=0)] = 70  # 0: the network as model.weights has it
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the persons who do not train
    eval_every: Annotated[int, Field(ge=0)] = 0  # epochs between measurements of held-out persons; 0: never
    keep: Literal["last", "best"] = "last"  # best: the measured epoch with the highest mAP
    learning_rate: Annotated[float, Field(gt=0)] = 0.013
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False  # (d)
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    decay_every: Positive = 30  # epochs
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    pretrained_rate: Annotated[float, Field(gt=0, le=1)] = (
        1.0  # (d) learning rate of loaded weights, relative
    )
    warmup_epochs: Annotated[int, Field(ge=0)] = 0  # (d)
    warmup_rate: Annotated[float, Field(gt=0)] | None = None  # (d) constant; null: linear from a hundredth
    freeze_batch_norm: bool = False  # (d) of those that model.weights fills, statistics and weights
    clip_norm: Annotated[float, Field(ge=0)] = 0.0  # (d) largest norm of the gradient; 0 = off
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0  # (d) averages 1 / (1 - decay) steps; 0 = off
    processes: Positive = 1  # that share each batch, one per GPU
    sync_batch_norm: bool = False  # (d) statistics of the whole batch, not of each GPU's share
    precision: Literal["auto", "bfloat16", "float32"] = "auto"  # auto: bfloat16 where the hardware has it
    compile: CompileMode = "none"  # torch.compile, if its losses are equal; cuda_graphs: with CUDA graphs

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        if self.eval_every and not self.held_out:
            raise ValueError(
                "eval_every measures held-out persons; set held_out to a share of them such as 0.1"
            )
        if self.keep == "best" and not (self.eval_every and self.epochs):
            raise ValueError("keep = 'best' chooses among measured epochs; set eval_every and epochs above 0")
        return self
