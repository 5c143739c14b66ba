"""Stage train: pairs of HR and SR images to the DGRL network."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from dvclive.live import Live

import dgrl
from dgrl.errors import InputError
from dgrl.files import atomic_file
from dgrl.image_bank import ImageBank, choose_storage, load_bank
from dgrl.parallel.device import default_device, keep_freed_memory
from dgrl.tables import read_keys
from dgrl.training.distributed import Ranks, launch, ranks
from dgrl.training.trainer import Log
from dgrl.training.trainer import train as train_network
from dgrl.weights.initial import require_file
from dgrl.weights.published import save_model
from pipeline.logs import set_up_logs
from pipeline.params import DatasetName, Params
from pipeline.paths import Paths
from pipeline.work import work_folder

_CODE = [Path(dgrl.__file__).parent / name for name in ("losses.py", "model", "training")]


def train(dataset: DatasetName, params: Params) -> None:
    """Write ``data/<dataset>/dgrl``: the model, its config and the curves."""
    count = params.train.processes
    if count > 1 and "WORLD_SIZE" not in os.environ:  # which torchrun sets
        launch(_train_rank, count, dataset, params)
    else:
        _train(dataset, params)


def _train_rank(dataset: DatasetName, params: Params) -> None:
    set_up_logs()
    _train(dataset, params)


def _train(dataset: DatasetName, params: Params) -> None:
    keep_freed_memory()
    paths = Paths(dataset)
    settings = {name: getattr(params, name).model_dump() for name in ("model", "loss", "augment", "train")}
    inputs = [paths.mlr("train_hr"), paths.sr("train"), *_CODE]
    if (weights := params.model.weights_file) is not None:
        require_file(weights)  # else the work folder would ask for the stage that writes it
        inputs.append(weights)
    with ranks() as here:
        if here.count != params.train.processes:
            raise InputError(
                f"torchrun started {here.count} processes, but train.processes = {params.train.processes}; "
                "make them equal"
            )
        settings["threads"] = torch.get_num_threads()  # sums depend on it
        with _work_folder(here, f"train@{dataset}", json.dumps(settings), inputs) as work:
            hr, sr = _banks(paths, params, work, here)
            with _curves(here, paths.live, dataset) as log:
                model, persons = train_network(
                    hr, sr, params.model, params.loss, params.augment, params.train,
                    work / "checkpoint.pt", log, here,
                )  # fmt: skip
            if here.rank == 0:
                save_model(paths.model, model, params.model, persons)
                with atomic_file(paths.config) as file:
                    config = {"dataset": dataset, "persons": persons, **settings}
                    file.write_text(json.dumps(config, indent=1) + "\n")


@contextmanager
def _work_folder(here: Ranks, stage: str, settings: str, inputs: Iterable[Path]) -> Iterator[Path]:
    """Rank 0's work folder, for all."""
    if here.rank:
        yield here.tell(None)
        here.wait()
        return
    with work_folder(stage, settings, inputs) as folder:
        yield here.tell(folder)
        here.wait()  # until nobody needs it


def _banks(paths: Paths, params: Params, work: Path, here: Ranks) -> list[ImageBank]:
    """The HR and the SR images; ranks of one machine share what they do not keep on their GPUs."""
    tables = {"hr": paths.mlr("train_hr"), "sr": paths.sr("train")}
    size = params.model.height, params.model.width
    needed = 2 * 3 * size[0] * size[1] * len(read_keys(tables["hr"]))
    device = default_device()
    storage = choose_storage(params.train.storage, needed, device)
    mapped = storage == "file" or here.count > 1
    if here.rank:
        here.wait()  # until the files are written
    banks = [
        load_bank(
            table,
            *size,
            device=device if storage == "device" else None,
            file=work / f"{name}.npy" if mapped else None,
        )
        for name, table in tables.items()
    ]
    if here.rank == 0:
        here.wait()
    return banks


@contextmanager
def _curves(here: Ranks, folder: Path, dataset: DatasetName) -> Iterator[Log]:
    """What writes the metrics of a step for ``dvc plots``, in rank 0."""
    if here.rank:
        yield lambda step, metrics: None
        return
    with Live(str(folder), save_dvc_exp=False, dvcyaml=None, monitor_system=False) as live:

        def log(step: int, metrics: Mapping[str, float]) -> None:
            live.step = step
            for name, value in metrics.items():
                live.log_metric(f"{dataset}/{name}", value, timestamp=False)
            live.make_summary()

        yield log
