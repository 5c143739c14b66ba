"""How a network of somebody else wants its images: colour order, mean and deviation, size."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, Strict
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dgrl.config import Section
from dgrl.datasets.archive import require_readable
from dgrl.errors import InputError, one_line
from dgrl.image_bank import resize
from dgrl.images import Image

Channels = Annotated[tuple[float, float, float], Strict(False)]
Positive = Annotated[float, Field(gt=0)]
Deviations = Annotated[tuple[Positive, Positive, Positive], Strict(False)]
Size = Annotated[int, Field(ge=8, le=4096)]


class Preprocessing(Section):
    """From uint8 RGB to a network's input: (value - mean) / std for values 0..255, in the colour order."""

    colour: Literal["rgb", "bgr"]
    mean: Channels = (0.0, 0.0, 0.0)
    std: Deviations = (1.0, 1.0, 1.0)
    height: Size | None = None  # pixels, where the network takes any
    width: Size | None = None


PREPROCESSING: Mapping[str, Preprocessing] = {
    "imagenet": Preprocessing(
        colour="rgb", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
    ),  # torchvision, torchreid, fast-reid, BoxMOT
    "rgb": Preprocessing(colour="rgb"),
    "bgr": Preprocessing(colour="bgr"),
    "unit": Preprocessing(colour="rgb", std=(255.0, 255.0, 255.0)),
}


def choose(path: Path, name: str | None, metadata: Preprocessing | None) -> Preprocessing:
    """The preprocessing of a network: as named, else of its own metadata, else of the YAML file beside it.

    Args:
        path: the network's file; the YAML file has its name with the suffix ``.yaml``.
        name: a key of ``PREPROCESSING``.
        metadata: what the file itself says, if it does.

    Raises:
        InputError: if nothing says it, or the YAML file is wrong.
    """
    beside = path.with_suffix(".yaml")
    if name is not None:
        if name not in PREPROCESSING:
            raise InputError(
                f"{path}: preprocessing {name!r} is unknown (allowed: {', '.join(PREPROCESSING)})"
            )
        return PREPROCESSING[name]
    if metadata is not None:
        return metadata
    if beside.is_file():
        return Preprocessing.parse(_read(beside), "", str(beside))
    raise InputError(
        f"{path} does not say how its images are normalised; write {path}@NAME with one of "
        f"{', '.join(PREPROCESSING)}, or put colour, mean and std (of 0..255) into {beside.name} beside it"
    )


def _read(path: Path) -> Any:
    require_readable(path)
    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, YAMLError) as error:
        raise InputError(f"{path} is no readable YAML file ({one_line(error)}); correct it") from None


def input_size(path: Path, found: Sequence[int | None], params: Preprocessing) -> tuple[int, int]:
    """Height and width of a network's input.

    Args:
        path: for the message.
        found: the input's shape as the network has it, None where any size goes.
        params: whose height and width count where the network takes any.

    Raises:
        InputError: if the input is no batch of RGB images, or no size is known.
    """
    if len(found) != 4 or found[1] not in (3, None):
        shown = ", ".join("?" if size is None else str(size) for size in found)
        raise InputError(f"{path}: its input is [{shown}], not [N, 3, H, W]; export it for RGB images")
    height, width = found[2] or params.height, found[3] or params.width
    if height is None or width is None:
        raise InputError(
            f"{path} takes images of any size; name height and width in {path.with_suffix('.yaml').name} "
            "beside it"
        )
    if (params.height or height, params.width or width) != (height, width):
        raise InputError(
            f"{path} takes images of {height}x{width}, not of {params.height}x{params.width}; correct "
            "height and width"
        )
    return height, width


def prepare(
    images: Sequence[Image], height: int, width: int, params: Preprocessing
) -> npt.NDArray[np.float32]:
    """A batch for a network: uint8 RGB images [H, W, 3] of any size to float32 [N, 3, height, width]."""
    batch = np.stack([resize(image, height, width) for image in images])
    if params.colour == "bgr":
        batch = batch[..., ::-1]
    mean, std = np.asarray(params.mean, np.float32), np.asarray(params.std, np.float32)
    normalised = (batch.astype(np.float32) - mean) / std
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))
