"""The command that writes a network for other programs."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dgrl.errors import InputError

if TYPE_CHECKING:
    from dgrl.images import Image

MEASURED = 256  # images

logger = logging.getLogger(__name__)


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="model.safetensors of a run.")],
    out: Annotated[Path, typer.Option(help="What to write: .onnx, .xml with its .bin, or a folder.")],
    form: Annotated[
        Literal["onnx", "openvino", "hf"],
        typer.Option("--format", help="hf: a folder for the Hugging Face Hub, with a model card."),
    ] = "onnx",
    resolution: Annotated[
        Literal["hr", "lr"],
        typer.Option(help="Of the images: hr, or lr: restored (super-resolved) ones. Not hf: it has both."),
    ] = "hr",
    precision: Annotated[
        Literal["float32", "float16", "int8"], typer.Option(help="Not for hf. int8 needs --images.")
    ] = "float32",
    images: Annotated[
        Path | None,
        typer.Option(help="Table or folder of training persons' images, to compare on; not for hf."),
    ] = None,
    sr: Annotated[
        int,
        typer.Option(
            help="The file takes LR images and enlarges them by this factor; 0: it takes restored ones."
        ),
    ] = 0,
    rcan: Annotated[
        Path | None, typer.Option(help="data/<dataset>/rcan: enlarge by RCAN, not bicubic interpolation.")
    ] = None,
    whitening: Annotated[
        Path | None, typer.Option(help="A file of `dgrl adapt`, applied in the file.")
    ] = None,
    flip: Annotated[bool, typer.Option(help="Embed an image and its mirror image.")] = False,
) -> None:
    """Write a network for other programs, as ONNX, OpenVINO IR or a folder for the Hugging Face Hub.

    HR and restored LR images go through stems of their own: ONNX and OpenVINO have a file for each. Its
    embeddings are compared with PyTorch's before the file is there, and its metadata say what is inside.
    """
    from dgrl.embedders.export import ExportOptions
    from dgrl.embedders.export_onnx import export_onnx
    from dgrl.embedders.export_openvino import export_openvino

    if form == "hf":
        if images or sr or (resolution, precision) != ("hr", "float32"):
            raise InputError(
                "the folder for the Hub has both stems in float32; leave out --resolution, --precision, "
                "--images and --sr"
            )
        _export_hf(model, out, rcan, whitening, flip=flip)
        return
    options = ExportOptions(resolution, flip, whitening, sr, rcan, precision)
    run = export_onnx if form == "onnx" else export_openvino
    found = run(model, out, options, _images(images) if images else None)
    logger.info(
        "%s: cosine to PyTorch at least %.6f, mean %.6f, on %d %simages",
        out, found.least, found.mean, found.images, "" if images else "random ",
    )  # fmt: skip


def _images(path: Path) -> "list[Image]":
    """Some of a table or folder, always the same."""
    from dgrl.random import named_generator
    from dgrl.search.sources import sources

    found = list(sources([path]))
    order = named_generator("export", "images").permutation(len(found))[:MEASURED]
    return [found[row].pixels() for row in order]


def _export_hf(model: Path, out: Path, rcan: Path | None, whitening: Path | None, *, flip: bool) -> None:
    """The folder, with what the run's evaluation found, if that was of this network."""
    from dgrl.embedders.export_hf import export_hf
    from dgrl.embedders.protocol import network_digest
    from dgrl.superres.upscale import own_rcan
    from pipeline.results import read_json

    run = model.absolute().parent.parent
    rcan = rcan or own_rcan(model)  # by which Embedder.load restores the run's queries
    evaluated = run / "eval"
    calibration, metrics = evaluated / "calibration.json", evaluated / "metrics.json"
    fitted = read_json(calibration, dict | None) if calibration.exists() else {}
    known = metrics.exists() and model.exists()
    ours = known and (  # null: too few persons for one
        fitted is None or fitted.get("model") == network_digest([model], flip=flip)
    )
    if not ours:
        logger.warning(
            "%s has no evaluation of this network %s the mirror image: the model card has no metrics; run "
            "the stage evaluate before, with that evaluate.flip", evaluated, "with" if flip else "without",
        )  # fmt: skip
    export_hf(
        model,
        out,
        flip=flip,
        whitening=whitening,
        rcan=rcan,
        calibration=calibration if ours and fitted and whitening is None else None,
        metrics=read_json(metrics) if ours else None,
    )
    logger.info("%s: read it and its README.md before you publish it", out)
