"""The published model: one safetensors file with the architecture in its header."""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dgrl.errors import InputError
from dgrl.files import atomic_file
from dgrl.model.network import DGRL
from dgrl.model.params import ModelParams


def save_model(path: Path, model: DGRL, params: ModelParams, persons: int) -> None:
    """Publish the weights as safetensors, with all that ``load_model`` needs in the header."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    # One entry: safetensors writes several in an order that changes from one process to the next.
    config = json.dumps({"model": params.model_dump(mode="json"), "persons": persons})
    with atomic_file(path) as building:
        save_file(state, building, {"dgrl": config})


def load_model(path: Path) -> tuple[DGRL, ModelParams]:
    """The network that ``save_model`` wrote, on the CPU, in evaluation mode.

    Raises:
        InputError: if the file is missing or not one of DGRL's.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; run the train stage first (dvc repro train)")
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if "dgrl" not in metadata:
        raise InputError(f"{path} is not a DGRL model: its header has no 'dgrl' entry")
    config = json.loads(metadata["dgrl"])
    params = ModelParams.parse(config["model"], "model", str(path))
    model = DGRL(params, config["persons"])
    model.load_state_dict(load_file(path))
    return model.eval(), params
