"""A folder for the Hugging Face Hub: a network and what belongs to it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dgrl.config import IntTuple, Section
from dgrl.embedders.preprocessing import Preprocessing
from dgrl.errors import InputError
from dgrl.model.params import ModelParams
from dgrl.superres.upscale import rcan_file

CONFIG, MODEL, WHITENING, RCAN = "config.json", "model.safetensors", "whitening.safetensors", "rcan"


class FolderParams(Section):
    """The folder's ``config.json``: what ``Embedder.load`` must find and do, and what people want to know."""

    library_name: Literal["dgrl"]
    model: ModelParams
    embedding: int  # dimension
    preprocessing: Preprocessing
    flip: bool
    whitening: bool
    rcan: IntTuple  # factors; none: bicubic interpolation


@dataclass(frozen=True)
class Folder:
    """The files of a folder; None for those that it has not."""

    model: Path
    flip: bool
    whitening: Path | None
    rcan: Path | None


def read_folder(path: Path) -> Folder:
    """The files of a folder that ``export_hf`` wrote.

    Raises:
        InputError: if it is none, damaged, or lacks a file that its ``config.json`` tells of.
    """
    try:
        values = json.loads((path / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        raise InputError(
            f"{path} is no folder of an exported network: it has no readable {CONFIG}; name the network's "
            "file, or export again"
        ) from None
    params = FolderParams.parse(values, "", str(path / CONFIG))
    found = Folder(
        path / MODEL,
        params.flip,
        path / WHITENING if params.whitening else None,
        path / RCAN if params.rcan else None,
    )
    needed = [found.model, found.whitening, *(rcan_file(path / RCAN, factor) for factor in params.rcan)]
    for file in needed:
        if file is not None and not file.is_file():
            raise InputError(f"{path} lacks {file.relative_to(path)}; download or export the folder again")
    return found
