"""The published model: one safetensors file with the architecture in its header."""

import json
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dgrl.errors import InputError
from dgrl.files import atomic_file
from dgrl.model.network import DGRL
from dgrl.model.params import ModelParams
from dgrl.weights.tensors import build_empty, load_into, read_tensors, require_sound


def save_model(
    path: Path, model: DGRL, params: ModelParams, persons: int, trained_on: Iterable[str] = ()
) -> None:
    """Publish the weights as safetensors, with all that ``load_model`` needs in the header.

    Args:
        path: the file.
        model: the network.
        params: its architecture.
        persons: the number of its classes.
        trained_on: ``<dataset>/<person>`` of those whom it, or what it started from, learned from.

    Raises:
        InputError: if a weight is not finite.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    require_sound(state, str(path))
    # One entry: safetensors writes several in an order that changes from one process to the next.
    config = json.dumps(
        {"model": params.model_dump(mode="json"), "persons": persons, "trained_on": sorted(trained_on)}
    )
    with atomic_file(path) as building:
        save_file(state, building, {"dgrl": config})


def load_model(path: Path) -> tuple[DGRL, ModelParams]:
    """The network that ``save_model`` wrote, on the CPU, in evaluation mode.

    Raises:
        InputError: if the file is missing, damaged, or not one of DGRL's.
    """
    tensors, config = read_tensors(path, "dgrl")
    persons = config.get("persons")
    if not isinstance(persons, int) or persons < 1:
        raise InputError(f"{path}: persons = {persons!r} in its header is no number; train it again")
    params = ModelParams.parse(config.get("model"), "model", str(path))
    model = build_empty(lambda: DGRL(params, persons), path)
    load_into(model, tensors, path)
    return model.eval(), params


def trained_persons(path: Path) -> frozenset[str]:
    """``<dataset>/<person>`` of those whom a model learned from; empty if its file does not say."""
    try:
        with safe_open(path, "pt") as file:
            persons = json.loads((file.metadata() or {}).get("dgrl", "{}")).get("trained_on", [])
    except (SafetensorError, OSError, ValueError, AttributeError, RecursionError):
        return frozenset()
    return frozenset(map(str, persons)) if isinstance(persons, list) else frozenset()
