"""A trained network as one ONNX file, or as OpenVINO's two, for other programs."""

import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dgrl.embedders.catalog import load_embedder
from dgrl.embedders.external import METADATA
from dgrl.embedders.preprocessing import PREPROCESSING
from dgrl.embedders.protocol import Resolution
from dgrl.embedders.trained import TrainedNetwork
from dgrl.errors import InputError
from dgrl.extras import package
from dgrl.files import atomic_file, sha256
from dgrl.model.network import DGRL, Stream
from dgrl.random import named_generator
from dgrl.weights.published import load_model

OPSET = 18
COSINE = 0.9999  # to PyTorch, at least
CHECKED = 8  # images


class _Stream(nn.Module):
    """The test pass of one stream."""

    def __init__(self, model: DGRL, stream: Stream) -> None:
        super().__init__()
        self.model, self.stream = model, stream

    def forward(self, images: Tensor) -> Tensor:
        return self.model.embed(images, self.stream)


def export_onnx(model: Path, output: Path, resolution: Resolution = "hr") -> float:
    """Write a network as ONNX: ``images`` [N, 3, H, W] to ``embeddings`` [N, D] of unit length, for any N.

    The images are float32 RGB, less ImageNet's mean, over its deviation; the file's metadata say so, and
    ``load_embedder`` reads it. HR and LR images go through stems of their own: a file has one of them.

    Args:
        model: ``model.safetensors`` of a run.
        output: the ``.onnx`` file.
        resolution: hr, or lr: images that were restored.

    Returns:
        The least cosine similarity to PyTorch's embeddings, on random images.

    Raises:
        InputError: if the model is missing or damaged, a package is missing, or the embeddings differ.
    """
    if output.suffix != ".onnx":
        raise InputError(f"{output} does not end in .onnx, by which it is known; name it so")
    network, params = load_model(model)
    onnx = package("onnx", "onnx", "exporting")
    package("onnxscript", "onnx", "exporting")  # which torch's exporter imports
    example = torch.zeros(2, 3, params.height, params.width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch deprecates in itself
        logging.getLogger("onnxscript").setLevel(logging.WARNING)
        program: Any = torch.onnx.export(
            _Stream(network, "sr" if resolution == "lr" else "hr").eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["embeddings"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            verbose=False,
        )
    proto = program.model_proto
    _drop_notes(proto.graph)
    entries = {
        METADATA: PREPROCESSING["imagenet"].model_dump_json(exclude_none=True),
        "dgrl.resolution": resolution,
        "dgrl.model_sha256": sha256(model),
    }
    onnx.helper.set_model_props(proto, entries)
    with atomic_file(output) as building:
        onnx.save(proto, building)
        return _check(model, building, resolution)


def export_openvino(model: Path, output: Path, resolution: Resolution = "hr", *, half: bool = False) -> float:
    """Write a network as OpenVINO IR: an ``.xml`` file and its ``.bin``; all else as ``export_onnx``.

    Args:
        model: ``model.safetensors`` of a run.
        output: the ``.xml`` file.
        resolution: hr, or lr: images that were restored.
        half: weights in float16, half the size.

    Returns:
        The least cosine similarity to PyTorch's embeddings, on random images.

    Raises:
        InputError: as ``export_onnx``.
    """
    if output.suffix != ".xml":
        raise InputError(f"{output} does not end in .xml, by which it is known; name it so")
    ov = package("openvino", "openvino", str(output))
    with TemporaryDirectory(dir=output.parent) as folder:
        source, building = Path(folder, "network.onnx"), Path(folder, output.name)
        export_onnx(model, source, resolution)
        network = ov.convert_model(source)
        network.set_rt_info(PREPROCESSING["imagenet"].model_dump_json(exclude_none=True), METADATA)
        network.set_rt_info(sha256(model), "dgrl.model_sha256")
        ov.save_model(network, building, compress_to_fp16=half)
        cosine = _check(model, building, resolution)
        for file in (building.with_suffix(".bin"), building):  # the one that names the other comes last
            file.replace(output.with_suffix(file.suffix))
    return cosine


def _check(model: Path, exported: Path, resolution: Resolution) -> float:
    """The least cosine similarity of both embeddings; InputError where it is too small."""
    ours, theirs = TrainedNetwork(model), load_embedder(exported)
    shape = (CHECKED, ours.height, ours.width, 3)
    images = list(named_generator("export").integers(0, 256, shape, np.uint8))
    cosine = float((ours.embed(images, resolution) * theirs.embed(images, resolution)).sum(axis=1).min())
    if cosine < COSINE:
        raise InputError(
            f"{model}: its exported embeddings have a cosine of only {cosine:.6f} to PyTorch's; report it"
        )
    return cosine


def _drop_notes(graph: Any) -> None:
    """Drop what the exporter notes of this machine's files, which differs from one to the next."""
    for part in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for each in part:
            del each.metadata_props[:]
            each.doc_string = ""
