"""Stage train: pairs of HR and SR pictures to the DGRL network."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from dvclive.live import Live

import dgrl
from dgrl.device import default_device
from dgrl.files import atomic_file
from dgrl.model.weights import require_file
from dgrl.tables import read_keys
from dgrl.training.checkpoint import save_model
from dgrl.training.image_bank import choose_storage, load_bank
from dgrl.training.trainer import train as train_network
from pipeline.params import DatasetName, Params
from pipeline.paths import Paths
from pipeline.work import work_folder

_CODE = [Path(dgrl.__file__).parent / name for name in ("losses.py", "model", "training")]


def train(dataset: DatasetName, params: Params) -> None:
    """Write ``data/<dataset>/dgrl``: the model, its config and the curves."""
    paths = Paths(dataset)
    hr_table, sr_table = paths.mlr("train_hr"), paths.sr("train")
    settings = {name: getattr(params, name).model_dump() for name in ("model", "loss", "augment", "train")}
    settings["threads"] = torch.get_num_threads()  # sums depend on it
    inputs = [hr_table, sr_table, *_CODE]
    if (weights := params.model.weights_file) is not None:
        require_file(weights)  # else the work folder would ask for the stage that writes it
        inputs.append(weights)
    with work_folder(f"train-{dataset}", json.dumps(settings), inputs) as work:
        size = params.model.height, params.model.width
        device = default_device()
        needed = 2 * 3 * size[0] * size[1] * len(read_keys(hr_table))
        storage = choose_storage(params.train.storage, needed, device)
        hr, sr = (
            load_bank(table, *size, storage=storage, device=device, file=work / f"{name}.npy")
            for name, table in (("hr", hr_table), ("sr", sr_table))
        )
        with Live(str(paths.live), save_dvc_exp=False, dvcyaml=None, monitor_system=False) as live:

            def log(step: int, figures: Mapping[str, float]) -> None:
                live.step = step
                for name, value in figures.items():
                    live.log_metric(f"{dataset}/{name}", value, timestamp=False)
                live.make_summary()

            model, persons = train_network(
                hr, sr, params.model, params.loss, params.augment, params.train, work / "checkpoint.pt", log
            )
        save_model(paths.model, model, params.model, persons)
        with atomic_file(paths.config) as file:
            file.write_text(json.dumps({"dataset": dataset, "persons": persons, **settings}, indent=1) + "\n")
