"""The command that writes a network for other programs."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

logger = logging.getLogger(__name__)


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="model.safetensors of a run.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    form: Annotated[Literal["onnx"], typer.Option("--format", help="What to write.")] = "onnx",
    resolution: Annotated[
        Literal["hr", "lr"], typer.Option(help="Of the images: hr, or lr: restored (super-resolved) ones.")
    ] = "hr",
) -> None:
    """Write a network as ONNX for onnxruntime, OpenVINO and trackers; its metadata name the normalisation.

    HR and restored LR images go through stems of their own: export each to a file. The embeddings are
    compared with PyTorch's before the file is there.
    """
    from dgrl.embedders.export import export_onnx

    cosine = export_onnx(model, out, resolution)
    logger.info("%s (%s): cosine to PyTorch at least %.6f", out, form, cosine)
