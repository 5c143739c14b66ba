"""Stage train: pairs of HR and SR images to the DGRL network."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from dvclive.live import Live

from dgrl.errors import InputError
from dgrl.files import atomic_file, sha256
from dgrl.image_bank import ImageBank, choose_storage, load_bank
from dgrl.model.losses import loss_terms
from dgrl.parallel.device import default_device, keep_freed_memory
from dgrl.tables import read_keys
from dgrl.training.batches import Batches, hold_out
from dgrl.training.distributed import Ranks, launch, ranks
from dgrl.training.held_out import MEAN_AP, RANK1, HeldOut, best
from dgrl.training.trainer import Log
from dgrl.training.trainer import train as train_network
from dgrl.weights.initial import build, imagenet_file, require_file
from dgrl.weights.published import save_model, trained_persons
from pipeline.logs import set_up_logs
from pipeline.params import Params
from pipeline.paths import Paths, outside
from pipeline.work import code, work_folder

logger = logging.getLogger(__name__)


def train(dataset: str, params: Params) -> None:
    """Write ``data/<dataset>/dgrl``: the model, its config and the curves."""
    count = params.train.processes
    if count > 1 and "WORLD_SIZE" not in os.environ:  # which torchrun sets
        launch(_train_rank, count, dataset, params)
    else:
        _train(dataset, params)


def _train_rank(dataset: str, params: Params) -> None:
    set_up_logs()
    _train(dataset, params)


def _train(dataset: str, params: Params) -> None:
    keep_freed_memory()
    paths = Paths(dataset)
    settings: dict[str, Any] = {
        "model": params.model.model_dump(),
        "loss": params.loss.model_dump(),
        "augment": params.augment.model_dump(),
        "train": params.train.model_dump(),
    }
    files = [paths.mlr("train_hr"), paths.sr("train")]
    if weights := _weights(params):
        settings["weights_sha256"] = sha256(weights)
    with ranks() as here:
        if here.count != params.train.processes:
            raise InputError(
                f"torchrun started {here.count} processes, but train.processes = {params.train.processes}; "
                "make them equal"
            )
        settings["threads"] = torch.get_num_threads()  # sums depend on it
        with _work_folder(
            here, f"train@{dataset}", json.dumps(settings), [*files, *code("train", dataset)]
        ) as work:
            hr, sr = _banks(paths, params, work, here)
            persons = set(hr.keys.person_id)
            held_out = hold_out(persons, params.train.held_out, params.train.seed)
            batches = Batches(hr, sr, params.augment, params.train, default_device(), here, held_out)
            start = params.model.model_copy(update={"weights": str(weights)} if weights else {})
            model, match = build(start, batches.persons, params.train.seed)
            losses = partial(loss_terms, params=params.loss, gather=here.all_gather)
            measure = HeldOut(hr, sr, held_out, batches.device) if params.train.eval_every else None
            with _curves(here, paths, batches.per_epoch) as log:
                history = train_network(
                    model, losses, batches, params.train, work / "checkpoint.pt", log, here,
                    pretrained=match.taken, measure=measure,
                    log_every=params.runtime.log_every, checkpoint_every=params.runtime.checkpoint_every,
                )  # fmt: skip
            if here.rank == 0:
                learned = {f"{dataset}/{person}" for person in persons.difference(held_out)}
                learned = learned if params.train.epochs else set()
                earlier = trained_persons(weights) if weights else frozenset()
                with atomic_file(paths.config) as file:  # both are written before one of them is published
                    config = {"dataset": dataset, "persons": batches.persons, **settings}
                    config |= _measured(history, batches.per_epoch, params.train.keep)
                    file.write_text(json.dumps(config, indent=1) + "\n")
                    save_model(paths.model, model, params.model, batches.persons, learned | earlier)


def _measured(history: list[dict[str, float]], steps_per_epoch: int, keep: str) -> dict[str, Any]:
    """For the config: the metrics of held-out persons by epoch, and which epoch was kept for its mAP."""

    def shown(metrics: Mapping[str, float]) -> dict[str, float]:
        epoch = int(metrics["step"]) // steps_per_epoch
        return {"epoch": epoch, "rank1": round(metrics[RANK1], 4), "mAP": round(metrics[MEAN_AP], 4)}

    if not (measured := [metrics for metrics in history if MEAN_AP in metrics]):
        return {}
    kept = {"kept": {**shown(best(measured)), "by": "mAP of held-out persons"}} if keep == "best" else {}
    return {"held_out": list(map(shown, measured)), **kept}


def _weights(params: Params) -> Path | None:
    """The file of weights to start from, if there is one."""
    if params.model.weights == "none":
        return None
    if params.model.weights == "imagenet":
        return imagenet_file(params.model.backbone)
    path = outside(params.model.weights)
    require_file(path)  # else the work folder would ask for the stage that writes it
    return path


@contextmanager
def _work_folder(here: Ranks, stage: str, settings: str, inputs: Iterable[Path]) -> Iterator[Path]:
    """Rank 0's work folder, for all."""
    if here.rank:
        yield here.broadcast(None)
        here.barrier()
        return
    with work_folder(stage, settings, inputs) as folder:
        yield here.broadcast(folder)
        here.barrier()  # until nobody needs it


def _banks(paths: Paths, params: Params, work: Path, here: Ranks) -> tuple[ImageBank, ImageBank]:
    """The HR and the SR images; ranks of one machine share what they do not keep on their GPUs."""
    tables = {"hr": paths.mlr("train_hr"), "sr": paths.sr("train")}
    size = params.model.height, params.model.width
    needed = 3 * size[0] * size[1] * sum(len(read_keys(table)) for table in tables.values())
    device = default_device()
    storage = choose_storage(params.runtime.storage, needed, device)
    mapped = storage == "file" or here.count > 1
    if here.rank:
        here.barrier()  # until the files are written
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
        here.barrier()
    return banks[0], banks[1]


@contextmanager
def _curves(here: Ranks, paths: Paths, steps_per_epoch: int) -> Iterator[Log]:
    """Rank 0's log: metrics for ``dvc plots``, losses for the report, and a line an epoch."""
    if here.rank:
        yield lambda step, metrics: None
        return
    said = 0
    losses: dict[int, dict[str, float]] = {}  # by step
    with Live(str(paths.live), save_dvc_exp=False, dvcyaml=None, monitor_system=False) as live:
        (paths.live / "plots/metrics").mkdir(parents=True, exist_ok=True)  # an output without training too

        def log(step: int, metrics: Mapping[str, float]) -> None:
            live.step = step
            for name, value in metrics.items():
                live.log_metric(f"{paths.dataset}/{name}", value, timestamp=False)
            live.make_summary()
            nonlocal said
            if (epoch := step // steps_per_epoch) > said:
                said, loss, rate = epoch, metrics["loss/total"], metrics["images_per_second"]
                line = f"epoch {epoch}: loss {loss:.3f}, {rate:.0f} images/s"
                if MEAN_AP in metrics:
                    line += f"; held-out persons: Rank-1 {metrics[RANK1]:.1f}, mAP {metrics[MEAN_AP]:.1f}"
                logger.info(line)
            losses[step] = {name.removeprefix("loss/"): metrics[name] for name in metrics if "loss/" in name}

        yield log
    with atomic_file(paths.losses) as file:
        pd.DataFrame.from_dict(losses, "index").rename_axis("step").to_csv(file)
