"""RCAN, trained by basicsr itself in a child process, one model per down-sampling factor.

This module makes basicsr's options and starts the child (``dgrl.superres.child``), which imports torch;
this one does not.

Reference: Zhang et al., Image Super-Resolution Using Very Deep Residual Channel Attention Networks,
ECCV 2018.
"""

import hashlib
import json
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, cast

import pandas as pd
import yaml
from safetensors.numpy import save_file

from dgrl.errors import InputError, MissingError, WorkerError
from dgrl.files import atomic_folder
from dgrl.mlr.degrade import RECIPES, Degradation
from dgrl.progress import progress
from dgrl.random import named_generator, named_seed
from dgrl.superres.params import LESS_MEMORY, RcanParams
from dgrl.tables import read_keys

_FROM_CHILD = ("rcan.safetensors", "metrics.json", "loss.csv")  # what basicsr's process writes
_GAMMA = 0.5  # learning rate's factor at a milestone, as in RCAN
_BETAS = [0.9, 0.99]  # Adam's, as in basicsr's option files for RCAN
_ITERATIONS_PER_EPOCH = 1000  # basicsr's epoch only sets how often it shuffles
_SAVE_EVERY = 50  # iterations at least
_ITERATION = re.compile(r"iteration (\d+)(: resumed)?")
_LOG_TAIL = 15  # lines of the log that an error quotes

logger = logging.getLogger(__name__)


def pretrain(
    train_hr: Path,
    output: Path,
    scale: int,
    params: RcanParams,
    work: Path,
    how: Degradation = RECIPES["dgrl"],
) -> dict[str, float]:
    """Train RCAN x ``scale`` on a table of HR images.

    The same table, params and number of threads give the same weights, byte for byte, on one CPU, however
    often the run was killed.

    Args:
        train_hr: an image table; LR images are made from it. Images smaller than the
            patch are left out, and the log says how many.
        output: the folder to publish, all of it or nothing: ``rcan.safetensors`` (with its architecture in
            the header), ``options.json`` (how it was trained), ``metrics.json`` and ``loss.csv`` (iteration,
            L1 loss averaged since the last row).
        scale: 2, 3, 4 or 8.
        params: architecture and training; ``params.scales`` is not read.
        work: a folder for basicsr's own files and the state that a killed run resumes from, of this table
            and these params only; the caller removes it.
        how: LR images are made, as those of the set.

    Returns:
        Means over the held-out persons' images, as RCAN learns them: ``psnr`` (dB) and ``ssim`` over RGB,
        border 0 (no pixels cut), and ``psnr_y`` over the Y channel, border ``scale``, as SR papers give it;
        the same of bicubic interpolation as ``bicubic_*``; ``gain_psnr``, ``images``, ``iterations``. The log
        warns where RCAN is below bicubic interpolation.

    Raises:
        InputError: if fewer than two persons have images that a patch fits into, an image is unreadable, the
            loss is not finite, or memory runs out.
        WorkerError: if the child was killed.
        RuntimeError: if basicsr fails otherwise, with the end of its log.
    """
    run = work.resolve() / f"rcan_x{scale}"
    settings = options(train_hr.resolve(), scale, params, run, how)
    shutil.rmtree(run / "experiments", ignore_errors=True)  # basicsr would rename an old one and keep it
    Path(settings["output"]).mkdir(parents=True, exist_ok=True)
    option_file = run / "options.yml"
    option_file.write_text(yaml.safe_dump(settings, sort_keys=False))
    _run_child(option_file, run / "log.txt", f"RCAN x{scale}", params.iterations)
    with atomic_folder(output) as building:
        for name in _FROM_CHILD:
            shutil.copyfile(Path(settings["output"]) / name, building / name)
        chosen = params.model_dump(mode="json", exclude={"scales", "weights"}) | how._asdict()
        (building / "options.json").write_text(json.dumps(chosen) + "\n")
    metrics: dict[str, float] = json.loads((output / "metrics.json").read_text())
    if metrics["gain_psnr"] < 0:
        logger.warning(
            "RCAN x%d is %.2f dB below bicubic interpolation on the held-out persons: raise rcan.iterations "
            "or change rcan.learning_rate",
            scale,
            -metrics["gain_psnr"],
        )
    return metrics


def publish_nothing(output: Path, reason: str) -> None:
    """The files of a scale where there is nothing to restore: no tensors, no metrics, no curve."""
    with atomic_folder(output) as building:
        save_file({}, building / "rcan.safetensors", {"not trained": reason})
        _write_untrained(building, {"not trained": reason})


def publish_trained(output: Path, weights: Path) -> None:
    """The files of a scale with a pretrained RCAN: its weights and their digest, no metrics, no loss curve.

    Args:
        output: the folder to publish.
        weights: the pretrained network's ``rcan.safetensors``, as ``pretrain`` writes it.

    Raises:
        MissingError: if there is no such file.
        InputError: if it cannot be read.
    """
    try:
        data = weights.read_bytes()
    except FileNotFoundError:
        raise MissingError(f"{weights} does not exist; give a folder with an RCAN of each scale") from None
    except (OSError, ValueError) as error:  # a path with a null character
        raise InputError(f"{str(weights)!r} cannot be read ({error}); correct the path") from None
    with atomic_folder(output) as building:
        (building / "rcan.safetensors").write_bytes(data)
        _write_untrained(building, {"weights_sha256": hashlib.sha256(data).hexdigest()})


def _write_untrained(building: Path, options: dict[str, str]) -> None:
    (building / "options.json").write_text(json.dumps(options) + "\n")
    (building / "metrics.json").write_text("{}\n")
    (building / "loss.csv").write_text("iteration,loss\n")


def options(
    train_hr: Path, scale: int, params: RcanParams, run: Path, how: Degradation = RECIPES["dgrl"]
) -> dict[str, Any]:
    """basicsr's option file, as a mapping; ``run`` is the folder for all that basicsr writes.

    Raises:
        InputError: see ``pretrain``.
    """
    keys, images = large_enough(train_hr, params), len(read_keys(train_hr))
    if len(keys) < images:
        logger.warning(
            "%d of %d images are smaller than rcan.patch = %d: RCAN is trained and measured without them",
            images - len(keys),
            images,
            params.patch,
        )
    persons = held_out(keys["person_id"].unique().tolist(), params.val_fraction, params.seed)
    training = int((~keys["person_id"].isin(persons)).sum())
    epoch = min(params.iterations, _ITERATIONS_PER_EPOCH) * params.batch
    source = {
        "type": "TableDataset",
        "table": str(train_hr),
        "degradation": list(how),
        "held_out": persons,
        "patch": params.patch,
    }
    return {
        "name": run.name,
        "model_type": "TableSRModel",
        "scale": scale,
        "num_gpu": "auto",
        "manual_seed": named_seed("rcan", params.seed, scale) % 2**32,  # NumPy's global seed has 32 bits
        "output": str(run / "output"),
        "state": str(run / "state.pt"),
        "datasets": {
            "train": {
                **source,
                "name": "train",
                "seed": params.seed,
                "batch_size_per_gpu": params.batch,
                "num_worker_per_gpu": 0,  # the images are in memory; and so the draws are reproducible
                "dataset_enlarge_ratio": math.ceil(epoch / training),
            },
            "val": {**source, "name": "held-out persons"},
        },
        "network_g": {
            "type": "RCAN",
            "num_in_ch": 3,
            "num_out_ch": 3,
            "num_feat": params.features,
            "num_group": params.groups,
            "num_block": params.blocks,
            "squeeze_factor": 16,  # RCAN's own, as res_scale; here because the weights' header says all
            "upscale": scale,
            "res_scale": 1.0,
        },
        "path": {"experiments_root": str(run / "experiments")},
        "train": {
            "ema_decay": params.ema_decay,
            "optim_g": {"type": "Adam", "lr": params.learning_rate, "betas": _BETAS},
            "scheduler": {
                "type": "MultiStepLR",
                "milestones": [round(fraction * params.iterations) for fraction in params.milestones],
                "gamma": _GAMMA,
            },
            "total_iter": params.iterations,
            "warmup_iter": params.warmup,
            "pixel_opt": {"type": "L1Loss"},
        },
        # basicsr validates once more at the end: that is the only time wanted.
        "val": {"val_freq": params.iterations + 1, "save_img": False},
        "logger": {
            "print_freq": max(1, params.iterations // 200),
            "save_checkpoint_freq": max(_SAVE_EVERY, params.iterations // 20),
            "use_tb_logger": False,
        },
    }


def held_out(person_ids: list[str], fraction: float, seed: int) -> list[str]:
    """The training persons kept for validation: each by a draw of their own, at least one, never all.

    Raises:
        InputError: if there are fewer than two persons.
    """
    if len(person_ids) < 2:
        raise InputError(f"RCAN needs images of two persons or more (one is held out), not {len(person_ids)}")
    draws = {person: named_generator("rcan", seed, "val", person).random() for person in person_ids}
    below = sum(draw < fraction for draw in draws.values())
    count = min(max(below, 1), len(person_ids) - 1)
    return sorted(sorted(draws, key=draws.__getitem__)[:count])


def large_enough(train_hr: Path, params: RcanParams) -> pd.DataFrame:
    """The keys of the images that a patch fits into.

    Others are left out, as basicsr's preparation of training sets leaves out what is below its threshold.
    Padded by reflection, they would teach RCAN mirrored borders, which no image has that it will restore.

    Raises:
        InputError: if fewer than two persons have such images.
    """
    keys = read_keys(train_hr)
    sides = keys[["width", "height"]].min(axis="columns")
    large = keys[sides >= params.patch]
    persons = large["person_id"].nunique()
    if persons < 2 <= keys["person_id"].nunique():
        unit = math.lcm(*params.scales)
        largest = sides.groupby(keys["person_id"]).max().nlargest(2).min() // unit * unit
        advice = f"set it to at most {largest}" if largest else "take another method of super-resolution"
        raise InputError(
            f"rcan.patch = {params.patch} fits into images of only {persons} of the persons of {train_hr}, "
            f"and RCAN needs two or more; {advice}"
        )
    return large


def _run_child(option_file: Path, log: Path, name: str, iterations: int) -> None:
    """Run basicsr; its output goes to ``log`` and to this module's logger."""
    command = [sys.executable, "-m", "dgrl.superres.child", str(option_file), str(os.getpid())]
    # basicsr would spread one small network over every GPU and multiply the batch by their number.
    one_gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    child = subprocess.Popen(
        command,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": one_gpu},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with child, log.open("w") as file, progress("iteration") as display:
        task = display.add_task(name, total=iterations)
        try:
            for line in cast("IO[str]", child.stdout):
                file.write(line)
                logger.debug("%s", line.rstrip())
                if found := _ITERATION.match(line):
                    display.update(task, completed=int(found[1]))
                    if found[2]:
                        logger.info("%s: resume after iteration %s", name, found[1])
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        _explain(child.returncode, log, name)


def _explain(status: int, log: Path, name: str) -> None:
    tail = log.read_text().splitlines()[-_LOG_TAIL:]
    if status == os.EX_DATAERR:
        raise InputError(tail[-1])
    if status == -signal.SIGKILL:
        raise WorkerError(f"{name} was killed, most often for want of memory; {LESS_MEMORY}")
    reason = f"ended by signal {-status}" if status < 0 else f"failed with status {status}"
    raise RuntimeError("\n".join([f"{name} {reason}; the end of {log}:", *tail]))
