"""A trained network as OpenVINO IR, for other programs."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from dgrl.embedders.export import Agreement, Export, ExportOptions, require_suffix, split_images
from dgrl.embedders.export_onnx import onnx_model
from dgrl.extras import package
from dgrl.images import Image


def export_openvino(
    model: Path,
    output: Path,
    options: ExportOptions = ExportOptions(),  # noqa: B008 (it is frozen)
    images: Sequence[Image] | None = None,
) -> Agreement:
    """Write a network as OpenVINO IR, an ``.xml`` file and its ``.bin``; all else as ``export_onnx``."""
    require_suffix(output, ".xml")
    calibrating, checked = split_images(options, images)
    exported = Export(model, options)
    ov = package("openvino", "openvino", str(output))
    onnx = package("onnx", "onnx", "exporting")
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent) as folder:
        source, building = Path(folder, "network.onnx"), Path(folder, output.name)
        onnx.save(onnx_model(exported, calibrating), source)
        network = ov.convert_model(source)
        for name, value in exported.metadata().items():
            network.set_rt_info(value, name)
        ov.save_model(network, building, compress_to_fp16=options.precision == "float16")
        compiled = ov.Core().compile_model(building, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = exported.check(lambda batch: compiled(batch)[0], checked)
        for file in (building.with_suffix(".bin"), building):  # the one that names the other comes last
            file.replace(output.with_suffix(file.suffix))
    return found
