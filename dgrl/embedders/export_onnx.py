"""A trained network as one ONNX file, for other programs."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from dgrl.embedders.export import Agreement, Export, ExportOptions, Floats, require_suffix, split_images
from dgrl.extras import package
from dgrl.files import atomic_file
from dgrl.images import Image

OPSET = 18
SIDES = {0: ("batch", 1), 2: ("height", 2), 3: ("width", 2)}  # of the input that may vary, with the least


def export_onnx(
    model: Path,
    output: Path,
    options: ExportOptions = ExportOptions(),  # noqa: B008 (it is frozen)
    images: Sequence[Image] | None = None,
) -> Agreement:
    """Write a network as ONNX: ``images`` [N, 3, H, W] to ``embeddings`` [N, D] of unit length, for any N.

    The images are float32 RGB, less ImageNet's mean, over its deviation. With ``options.sr`` they are LR
    images of any height and width, in 0..255. The file's metadata say so, and ``load_embedder`` reads them.
    HR and LR images go through stems of their own: a file has one of them.

    Args:
        model: ``model.safetensors`` of a run.
        output: the ``.onnx`` file.
        options: what is inside beside the network.
        images: as the file will get them, of training persons; it is checked on them (default: on random
            ones). For int8 the first ``CALIBRATED`` of them give the ranges, the others are for the check.

    Raises:
        InputError: if the model is missing or damaged, a package is missing, images are too few, or the
            embeddings differ from PyTorch's by more than the precision may.
    """
    require_suffix(output, ".onnx")
    calibrating, checked = split_images(options, images)
    exported = Export(model, options)
    ort = package("onnxruntime", "onnx", "exporting")
    proto = onnx_model(exported, calibrating)
    if options.precision == "float16":
        float16 = package("onnxruntime.transformers.float16", "onnx", "float16")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that float16 has not
            proto = float16.convert_float_to_float16(proto, keep_io_types=True)
    onnx = package("onnx", "onnx", "exporting")
    with atomic_file(output) as building:
        onnx.helper.set_model_props(proto, exported.metadata())
        onnx.save(proto, building)
        quiet = ort.SessionOptions()
        quiet.log_severity_level = 3  # errors
        session = ort.InferenceSession(building, quiet, providers=["CPUExecutionProvider"])
        return exported.check(lambda batch: session.run(["embeddings"], {"images": batch})[0], checked)


def onnx_model(exported: Export, calibrating: Sequence[Image]) -> Any:
    """The network as an ONNX model in memory: in float32, or quantised on ``calibrating``."""
    onnx = package("onnx", "onnx", "exporting")
    package("onnxscript", "onnx", "exporting")  # which torch's exporter imports
    sr = exported.options.sr
    varying = {axis: torch.export.Dim(name, min=least) for axis, (name, least) in SIDES.items()}
    shape = exported.height // max(sr, 1), exported.width // max(sr, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch deprecates in itself
        logging.getLogger("onnxscript").setLevel(logging.WARNING)
        program: Any = torch.onnx.export(
            exported.module,
            (torch.zeros(2, 3, *shape),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["embeddings"],
            dynamic_shapes={"images": varying if sr else {0: varying[0]}},
            verbose=False,
        )
    proto = program.model_proto
    graph = proto.graph
    for part in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for each in part:  # notes of this machine's files, which differ from one to the next
            del each.metadata_props[:]
            each.doc_string = ""
    return _quantised(onnx, proto, exported.inputs(calibrating)) if calibrating else proto


def _quantised(onnx: Any, proto: Any, batches: Iterator[Floats]) -> Any:
    """Convolutions in int8: weights per channel, inputs by their range on the images."""
    quantization = package("onnxruntime.quantization", "onnx", "int8")
    shapes = package("onnxruntime.quantization.shape_inference", "onnx", "int8")
    with TemporaryDirectory() as folder:
        source, prepared, target = (Path(folder, f"{name}.onnx") for name in ("float32", "prepared", "int8"))
        onnx.save(proto, source)
        shapes.quant_pre_process(source, prepared, skip_symbolic_shape=True)  # folds batch norms
        quantization.quantize_static(
            prepared,
            target,
            _Reader(batches),
            op_types_to_quantize=["Conv"],  # OpenVINO does not compile linear layers in int8
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return onnx.load(target)


class _Reader:
    """Batches, as onnxruntime asks for them."""

    def __init__(self, batches: Iterator[Floats]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}
