"""The child process of ``dgrl.superres.pretrain``: basicsr's ``train_pipeline`` on an image table.

    python -m dgrl.superres.child OPTIONS.yml PARENT_PID

basicsr owns the network, the loss, the optimizer and the loop. What is here is what it has no class for:
images from Parquet, pairs made as the set's LR images are, and results as safetensors, JSON and CSV.
"""

import csv
import json
import logging
import math
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.models.sr_model import SRModel
from basicsr.train import train_pipeline
from basicsr.utils import tensor2img
from basicsr.utils.registry import DATASET_REGISTRY, MODEL_REGISTRY
from safetensors.torch import save_file
from torch.utils.data import Dataset

from dgrl.errors import DivergedError, explain
from dgrl.images import Image
from dgrl.mlr.degrade import Degradation, degrade
from dgrl.parallel.processes import die_with_parent
from dgrl.random import named_generator
from dgrl.superres.params import LESS_MEMORY
from dgrl.tables import read_rows
from dgrl.weights.checkpoint import load_checkpoint, require_converged, save_checkpoint

_DIVERGED = "lower rcan.learning_rate or raise rcan.warmup"
_EXACT = 100.0  # dB for equal images, so that a mean stays finite; as in upscale

logger = logging.getLogger("dgrl.superres")


@DATASET_REGISTRY.register()
class TableDataset(Dataset[dict[str, Any]]):
    """Pairs of an LR and an HR image from an image table, decoded once into memory.

    Options: ``table``, ``scale``, ``degradation`` (kernel and JPEG quality), ``held_out`` (person ids),
    ``patch`` (HR pixels), ``phase``. "val" gives the held-out persons' whole images; "train" gives random
    patches of all others, by ``seed``. Images smaller than the patch are left out of both.

    Items: ``lq`` [3, h, w] and ``gt`` [3, h * scale, w * scale], float32 RGB in [0, 1], with the image_id
    as ``lq_path`` and ``gt_path``.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt  # basicsr reads it back
        self.scale: int = opt["scale"]
        self.training = opt["phase"] == "train"
        held_out = set(opt["held_out"])
        rows = [
            row
            for row in read_rows(Path(opt["table"]))
            if (row.person_id in held_out) != self.training and min(row.width, row.height) >= opt["patch"]
        ]
        self.image_ids = [row.image_id for row in rows]
        how = Degradation(*opt["degradation"])
        self.pairs = [_pair(row.pixels(), self.scale, how) for row in rows]
        self.visits = [0] * len(rows)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        lr, hr = self._patch(index) if self.training else self.pairs[index]
        name = self.image_ids[index]
        return {"lq": _tensor(lr), "gt": _tensor(hr), "lq_path": name, "gt_path": name}

    def _patch(self, index: int) -> tuple[Image, Image]:
        """A random patch, mirrored half of the time; never upside down or turned: these are people."""
        lr, hr = self.pairs[index]
        name, seed, scale = self.image_ids[index], self.opt["seed"], self.scale
        draws = named_generator("rcan", seed, "patch", name, self.visits[index])
        self.visits[index] += 1
        side = self.opt["patch"] // scale
        top = int(draws.integers(lr.shape[0] - side, endpoint=True))
        left = int(draws.integers(lr.shape[1] - side, endpoint=True))
        step = -1 if draws.random() < 0.5 else 1
        return (
            lr[top : top + side, left : left + side][:, ::step],
            hr[top * scale : (top + side) * scale, left * scale : (left + side) * scale][:, ::step],
        )


def _pair(image: Image, scale: int, how: Degradation) -> tuple[Image, Image]:
    """The LR image that the set has of a whole image, and what RCAN is to make of it.

    basicsr wants HR sides of exactly ``scale`` times the LR ones. Where they are not (128 by 3: 42, and 126),
    the HR image is resized by bicubic interpolation (d). A cut one would show less than the LR image.
    """
    lr = degrade(image, scale, how)[0]
    size = lr.shape[1] * scale, lr.shape[0] * scale
    if size == image.shape[1::-1]:
        return lr, image
    return lr, cv2.resize(image, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)


def _tensor(image: Image) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255  # [3, H, W]


@MODEL_REGISTRY.register()
class TableSRModel(SRModel):  # type: ignore[misc]
    """basicsr's SRModel that watches the loss, resumes, and writes its results as open formats.

    basicsr's own resume needs a GPU, begins the epoch again and knows neither the average nor the dataset's
    visits. Here its loop starts from the first iteration and only the optimizer steps that the saved state
    has behind it are left out: the sampler, the visits and the scheduler pass through what they passed
    through before. That takes a millisecond or two an iteration.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        self.output_folder = Path(opt["output"])
        self.state_file = Path(opt["state"])
        self.losses: list[float] = []
        self.curve: list[tuple[int, float]] = []
        self.log_dict: dict[str, float] = {}  # basicsr logs it
        self.resumed = load_checkpoint(self.state_file)
        self.first = self.resumed["iteration"] + 1 if self.resumed else 1

    def optimize_parameters(self, current_iter: int) -> None:
        """Take one step, or, up to the iteration that the state was written at, none."""
        if current_iter < self.first:
            if current_iter == self.first - 1:
                self._resume(self.resumed or {}, current_iter)
            return
        try:
            super().optimize_parameters(current_iter)
        except RuntimeError as error:  # Adam's step is no float32
            if "overflow" not in str(error):
                raise
            raise DivergedError(f"the step of {self._place(current_iter)} overflows; {_DIVERGED}") from None
        loss = self.log_dict["l_pix"]
        if not math.isfinite(loss):
            raise DivergedError(
                f"{self.opt['name']}: the L1 loss is {loss} at {self._place(current_iter)}; {_DIVERGED}"
            )
        self.losses.append(loss)
        last = current_iter == self.opt["train"]["total_iter"]
        if last or current_iter % self.opt["logger"]["print_freq"] == 0:
            self.curve.append((current_iter, float(np.mean(self.losses))))
            self.losses.clear()
            logger.info("iteration %d", current_iter)

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.net_g, "optimizer": self.optimizer_g}
        return parts | {"average": self.net_g_ema} if self.ema_decay else parts

    def _resume(self, saved: dict[str, Any], current_iter: int) -> None:
        # Only now: earlier, the scheduler would apply past milestones to the saved learning rate once more.
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        self.losses, self.curve = saved["losses"], saved["curve"]
        self.resumed = None
        logger.info("iteration %d: resumed", current_iter)

    def save(self, epoch: int, current_iter: int) -> None:
        """Write the state to resume from, or, after the last iteration (-1), the results."""
        if current_iter == -1:
            self._publish()
        elif current_iter >= self.first:
            state = {name: part.state_dict() for name, part in self._parts().items()}
            progress = {"iteration": current_iter, "losses": self.losses, "curve": self.curve}
            save_checkpoint(self.state_file, state | progress, self._place(current_iter), _DIVERGED)

    def _place(self, current_iter: int) -> str:
        (rate,) = self.get_current_learning_rate()
        return f"iteration {current_iter} (learning rate {rate:.3g})"

    def _publish(self) -> None:
        """The network (of the moving average, if on) and the curve of the loss."""
        network = self.get_bare_model(self.net_g_ema if self.ema_decay else self.net_g)
        state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
        require_converged(state, self._place(self.opt["train"]["total_iter"]), _DIVERGED)
        architecture = {key: value for key, value in self.opt["network_g"].items() if key != "type"}
        save_file(state, self.output_folder / "rcan.safetensors", {"architecture": json.dumps(architecture)})
        with (self.output_folder / "loss.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("iteration", "loss"), *self.curve])

    def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """Compare with bicubic on whole images and write metrics.json."""
        scores = []
        for batch in dataloader:
            self.feed_data(batch)
            self.test()
            lr, sr, hr = (tensor2img(image, rgb2bgr=False) for image in (self.lq, self.output, self.gt))
            bicubic = cv2.resize(lr, hr.shape[1::-1], interpolation=cv2.INTER_CUBIC)
            scores.append([*_scores(sr, hr, self.opt["scale"]), *_scores(bicubic, hr, self.opt["scale"])])
        names = ["psnr", "psnr_y", "ssim"]
        names += [f"bicubic_{name}" for name in names]
        metrics = dict(zip(names, np.mean(scores, axis=0).tolist(), strict=True))
        metrics["gain_psnr"] = metrics["psnr"] - metrics["bicubic_psnr"]
        metrics |= {"images": len(scores), "iterations": self.opt["train"]["total_iter"]}
        (self.output_folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


def _scores(image: Image, hr: Image, scale: int) -> tuple[float, float, float]:
    """PSNR (dB) over RGB, border 0; over Y, border ``scale``, as RCAN's paper; SSIM over RGB, border 0.

    Images are uint8 [H, W, 3]; borders are in pixels, cut from each side.
    """
    border = min(scale, (min(hr.shape[:2]) - 1) // 2)
    bgr = image[..., ::-1], hr[..., ::-1]  # whose Y basicsr takes
    luma = calculate_psnr(*bgr, border, test_y_channel=True)
    return (
        min(calculate_psnr(image, hr, 0), _EXACT),
        min(luma, _EXACT),
        calculate_ssim(image, hr, 0),
    )


def main() -> None:
    """Train as the option file says; what ``explain`` knows is the output's last line, status EX_DATAERR."""
    _, option_file, parent = sys.argv
    die_with_parent(int(parent))
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    sys.argv = [sys.argv[0], "-opt", option_file]  # train_pipeline reads them
    try:
        train_pipeline(str(Path(option_file).parent))
    except Exception as error:
        if (line := _line(error)) is None:
            raise
        logger.error("%s", line)
        sys.exit(os.EX_DATAERR)


def _line(error: Exception) -> str | None:
    """What to say of an error that a traceback does not explain better."""
    words = str(error) if isinstance(error, RuntimeError) else ""  # torch's on a CPU has no class
    if isinstance(error, MemoryError) or "out of memory" in words or "allocate memory" in words:
        return f"RCAN ran out of memory; {LESS_MEMORY}"
    return explain(error)


if __name__ == "__main__":
    main()
