"""All sections of ``params.yaml``, gathered from the code that consumes them."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from dgrl.config import Section
from dgrl.datasets.synthetic import SyntheticParams
from dgrl.errors import InputError
from dgrl.evaluation.params import EvaluateParams
from dgrl.mlr import MlrParams
from dgrl.model.params import ModelParams
from dgrl.superres.pretrain import RcanParams
from dgrl.superres.upscale import SrParams
from dgrl.training.params import AugmentParams, LossParams, TrainParams

DatasetName = Literal["synthetic", "viper"]


class ArchiveParams(Section):
    """Where an official archive is."""

    archive: str | None = None  # zip file or folder; null: data/drop/


class SourceParams(Section):
    """``source:`` of params.yaml: where each dataset comes from."""

    synthetic: SyntheticParams = SyntheticParams()
    viper: ArchiveParams = ArchiveParams()


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


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and validate ``params.yaml``.

    Raises:
        InputError: if the file is missing, no YAML, or has a wrong key or value.
    """
    try:
        values: Any = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist here; run dgrl in the project's folder") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    return Params.parse(values, "")
