"""A trained network as a folder for the Hugging Face Hub, with a model card."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgrl.embedders.catalog import load_embedder
from dgrl.embedders.folder import CONFIG, MODEL, RCAN, WHITENING, FolderParams
from dgrl.embedders.model_card import render_card
from dgrl.embedders.preprocessing import PREPROCESSING
from dgrl.errors import InputError
from dgrl.files import atomic_folder, sha256
from dgrl.superres.upscale import load_rcans, rcan_file
from dgrl.weights.published import load_model, trained_persons

CALIBRATION = "calibration.json"


def export_hf(
    model: Path,
    output: Path,
    *,
    flip: bool = False,
    whitening: Path | None = None,
    rcan: Path | None = None,
    calibration: Path | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write a folder that ``Embedder.load`` reads, with embeddings equal to the network's.

    It holds ``model.safetensors`` to the byte, ``config.json``, the model card ``README.md``, and what is
    given besides. Nothing is sent anywhere.

    Args:
        model: ``model.safetensors`` of a run; both stems are in it.
        output: the folder; it must not exist, or be empty.
        flip: embed an image as the sum of itself and its mirror image.
        whitening: a file of ``adapted.save_whitening`` for this network.
        rcan: a folder with ``x2/rcan.safetensors`` and so on, by which LR images are restored.
        calibration: the ``calibration.json`` of the network's evaluation.
        metrics: by dataset, the metrics of its evaluation, in percent, and their ``options``.

    Raises:
        InputError: if a file is missing or damaged, belongs to another network, or ``output`` is in use.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} is there already; remove it, or name another folder")
    network, params = load_model(model)
    factors = tuple(load_rcans(rcan)) if rcan else ()
    config = FolderParams(
        library_name="dgrl",
        model=params,
        embedding=len(network.state_dict()["heads.0.neck.weight"]),
        preprocessing=PREPROCESSING["imagenet"],
        flip=flip,
        whitening=whitening is not None,
        rcan=factors,
    )
    with atomic_folder(output) as building:
        shutil.copyfile(model, building / MODEL)
        if whitening:
            shutil.copyfile(whitening, building / WHITENING)
        if calibration:
            shutil.copyfile(calibration, building / CALIBRATION)
        for factor in factors:
            copy = rcan_file(building / RCAN, factor)
            copy.parent.mkdir(parents=True)
            shutil.copyfile(rcan_file(rcan, factor), copy)  # type: ignore[arg-type] # there are factors
        (building / CONFIG).write_text(config.model_dump_json(indent=1, exclude_none=True) + "\n", "utf-8")
        card = render_card(output.name, config, sha256(model), trained_persons(model), metrics or {})
        (building / "README.md").write_text(card, "utf-8")
        load_embedder(building)  # a whitening of another network is refused
