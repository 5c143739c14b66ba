"""Small networks with random weights that have seen images, a whitening and an RCAN for them."""

import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from dgrl.embedders.adapted import save_whitening
from dgrl.embedders.protocol import network_digest
from dgrl.evaluation.adaptation import Whitening
from dgrl.image_bank import resize
from dgrl.images import Image, decode
from dgrl.model.inputs import normalise
from dgrl.model.network import DGRL
from dgrl.model.params import ModelParams
from dgrl.random import named_generator
from dgrl.weights.published import save_model

VIPER = Path(__file__).parents[2] / "shared/data/VIPeR.v1.0.zip"


def viper(camera: str, count: int) -> list[Image]:
    """The images of the first persons by a camera."""
    with zipfile.ZipFile(VIPER) as archive:
        names = sorted(name for name in archive.namelist() if f"cam_{camera}/" in name and ".bmp" in name)
        return [decode(archive.read(name), name) for name in names[:count]]


def random_images(count: int, height: int = 80, width: int = 40) -> list[Image]:
    """Not noise, which a network's layers average away: blocks of colour."""
    blocks = named_generator("random images").integers(0, 256, (count, height // 8, width // 8, 3), np.uint8)
    return list(blocks.repeat(8, axis=1).repeat(8, axis=2))


def write_network(
    path: Path, height: int = 64, width: int = 32, seen: list[Image] | None = None, **params: object
) -> Path:
    """A network whose batch norms have seen images: their statistics are not those of the start."""
    torch.manual_seed(0)
    values = {"backbone": "resnet18", "dimension": 32, "groups": 4, "side_branches": False} | params
    model = ModelParams(weights="none", height=height, width=width, **values)  # type: ignore[arg-type]
    network = DGRL(model, persons=3).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of one batch
    sized = np.stack([resize(image, height, width) for image in seen or random_images(16)])
    batch = normalise(torch.from_numpy(sized).permute(0, 3, 1, 2))
    with torch.no_grad():
        network(batch, batch)
    save_model(path, network, model, 3, ["viper/001", "viper/002", "mine/a"])
    return path


def write_whitening(path: Path, model: Path, *, flip: bool, dimension: int = 32) -> Path:
    """One that moves and turns embeddings by much."""
    rng = named_generator("whitening")
    matrix = np.eye(dimension) + 0.1 * rng.standard_normal((dimension, dimension))
    means = 0.05 * rng.standard_normal((2, dimension))
    digest = network_digest([model], flip=flip)
    save_whitening(path, Whitening(means[0], means[1], matrix + matrix.T, 1.0, 100), digest, flip=flip)
    return path


def write_rcan(folder: Path, factor: int) -> Path:
    """An RCAN with random weights, as the stage pretrain_sr lays it down."""
    from basicsr.archs.rcan_arch import RCAN

    torch.manual_seed(factor)
    sizes = {"num_feat": 16, "num_group": 1, "num_block": 1, "squeeze_factor": 4, "upscale": factor}
    architecture = {"num_in_ch": 3, "num_out_ch": 3, **sizes}
    file = folder / f"x{factor}/rcan.safetensors"
    file.parent.mkdir(parents=True)
    save_file(RCAN(**architecture).state_dict(), file, {"architecture": json.dumps(architecture)})
    return folder
