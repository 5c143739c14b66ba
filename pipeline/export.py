"""The command that writes a network for other programs."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

logger = logging.getLogger(__name__)


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="model.safetensors of a run.")],
    out: Annotated[Path, typer.Option(help="What to write: .onnx, or OpenVINO's .xml with its .bin.")],
    resolution: Annotated[
        Literal["hr", "lr"], typer.Option(help="Of the images: hr, or lr: restored (super-resolved) ones.")
    ] = "hr",
    half: Annotated[bool, typer.Option("--half", help="OpenVINO: weights in float16.")] = False,
) -> None:
    """Write a network as ONNX or OpenVINO IR for other programs; its metadata name the normalisation.

    HR and restored LR images go through stems of their own: export each to a file. The embeddings are
    compared with PyTorch's before the file is there.
    """
    from dgrl.embedders.export import export_onnx, export_openvino

    if out.suffix == ".xml":
        cosine = export_openvino(model, out, resolution, half=half)
    else:
        cosine = export_onnx(model, out, resolution)
    logger.info("%s: cosine to PyTorch at least %.6f", out, cosine)
