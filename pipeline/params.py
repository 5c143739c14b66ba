"""All sections of ``params.yaml``, gathered from the code that consumes them."""

from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import Field, model_validator

from dgrl.config import Section
from dgrl.datasets.cuhk03 import Cuhk03Params
from dgrl.datasets.folder import FolderParams
from dgrl.datasets.market1501 import Market1501Params
from dgrl.datasets.synthetic import SyntheticParams
from dgrl.errors import InputError
from dgrl.evaluation.params import EvaluateParams
from dgrl.mlr.protocol import MlrParams
from dgrl.model.params import LossParams, ModelParams
from dgrl.superres.params import RcanParams, SrParams
from dgrl.training.params import AugmentParams, TrainParams

DatasetName = Literal["synthetic", "viper", "caviar", "market1501", "cuhk03", "folder"]


_DATASETS = ", ".join(get_args(DatasetName))


class ArchiveParams(Section):
    """Where an official archive is."""

    archive: str | None = None  # zip file or folder; null: data/drop/, else a mirror


class SourceParams(Section):
    """``source:`` of params.yaml: where each dataset comes from."""

    cache: str | None = None  # folder of fetched archives, for all projects; null: the user's cache folder
    synthetic: SyntheticParams = SyntheticParams()
    viper: ArchiveParams = ArchiveParams()
    caviar: ArchiveParams = ArchiveParams()
    market1501: Market1501Params = Market1501Params()
    cuhk03: Cuhk03Params = Cuhk03Params()
    folder: FolderParams = FolderParams()


class Params(Section):
    """The whole of ``params.yaml``."""

    datasets: list[DatasetName] = Field(min_length=1)
    source: SourceParams
    mlr: MlrParams
    rcan: RcanParams
    sr: SrParams
    model: ModelParams
    loss: LossParams
    augment: AugmentParams
    train: TrainParams
    evaluate: EvaluateParams

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.datasets)) < len(self.datasets):
            raise ValueError(f"datasets must not repeat one: {', '.join(self.datasets)}")
        if unknown := sorted(set(self.mlr.lr_camera) - set(get_args(DatasetName))):
            raise ValueError(f"mlr.lr_camera.{unknown[0]} is no dataset (allowed: {_DATASETS})")
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and validate ``params.yaml``.

    Raises:
        InputError: if the file is missing, no YAML, or has a wrong key or value.
    """
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist here; run dgrl in the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} has no sections; put a preset in its place (dgrl preset synthetic)")
    return Params.parse(values, "", str(path))


def as_scalar(value: Any) -> Any:
    """A param as tables and reports show it: a list as its items joined by spaces, anything else as it is."""
    return " ".join(map(str, value)) if isinstance(value, list) else value
