"""All sections of ``params.yaml``, gathered from the code that consumes them."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from dgrl.config import Section
from dgrl.datasets.catalog import parse_source
from dgrl.errors import InputError
from dgrl.evaluation.params import EvaluateParams
from dgrl.limits import Limits, use
from dgrl.mlr.protocol import MlrParams
from dgrl.model.params import LossParams, ModelParams
from dgrl.superres.params import RcanParams, SrParams
from dgrl.training.params import AugmentParams, TrainParams
from pipeline.params_file import read_yaml

NOT_SETS = ("drop", "compare")  # what else is in the folder data


class RuntimeParams(Section):
    """``runtime:`` of params.yaml: how results are computed, never what they are. No stage declares it."""

    cache: str | None = None  # folder of fetched archives, for all projects; null: the user's cache folder
    storage: Literal["auto", "device", "memory", "file"] = "auto"  # of decoded images; auto: where they fit
    workers: Annotated[int, Field(ge=1)] | None = None  # processes; null: one per GPU or usable core
    log_every: Annotated[int, Field(ge=1)] = 20  # optimizer steps
    checkpoint_every: Annotated[int, Field(ge=1)] = 100  # optimizer steps


class Params(Section):
    """The whole of ``params.yaml``."""

    datasets: list[str] = Field(min_length=1)
    source: dict[str, SerializeAsAny[Section]]
    mlr: MlrParams
    rcan: RcanParams
    sr: SrParams
    model: ModelParams
    loss: LossParams
    augment: AugmentParams
    train: TrainParams
    evaluate: EvaluateParams
    runtime: RuntimeParams
    limits: Limits

    @field_validator("source", mode="before")
    @classmethod
    def _parse_sources(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        try:
            return {name: parse_source(section, str(name)) for name, section in values.items()}
        except InputError as error:
            raise InputError(f"params.yaml: {error}") from None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.source:
            if name in NOT_SETS or not re.fullmatch(r"\w[\w.-]*", name):
                raise ValueError(
                    f"source: {name!r} is no name of a dataset, which is a folder in data/; use letters, "
                    f"digits, '_', '-' and '.', and not {' or '.join(NOT_SETS)}"
                )
        if len(set(self.datasets)) < len(self.datasets):
            raise ValueError(f"datasets must not repeat one: {', '.join(self.datasets)}")
        for name in self.datasets:
            if name not in self.source:
                raise ValueError(f"datasets: {name} has no section source.{name} (there are: {self._names})")
            if name not in self.mlr.lr_camera:
                raise ValueError(f"mlr.lr_camera.{name} is missing; set it to a camera, or a pattern")
        if self.train.freeze_batch_norm and self.model.weights == "none":
            raise ValueError(
                "train.freeze_batch_norm freezes what model.weights fills, and that is none; set it to false"
            )
        for key in ("lr_camera", "query_factor_per"):
            by_dataset = getattr(self.mlr, key)
            if isinstance(by_dataset, dict) and (unknown := sorted(set(by_dataset) - set(self.source))):
                raise ValueError(f"mlr.{key}.{unknown[0]} is no dataset (allowed: {self._names})")
        return self

    @property
    def _names(self) -> str:
        return ", ".join(self.source)

    def source_of(self, dataset: str) -> Any:
        """The section ``source.<dataset>``, of its kind's class.

        Raises:
            InputError: if there is none.
        """
        if dataset not in self.source:
            raise InputError(f"params.yaml has no section source.{dataset} (there are: {self._names})")
        return self.source[dataset]


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and validate ``params.yaml``; its ``limits`` become those of this process.

    Raises:
        InputError: if the file is missing, no YAML, or has a wrong key or value.
    """
    params = Params.parse(read_yaml(path), "", str(path))
    use(params.limits)
    return params


def as_scalar(value: Any) -> Any:
    """A param as tables and reports show it: a list as its items joined by spaces, anything else as it is."""
    return " ".join(map(str, value)) if isinstance(value, list) else value
