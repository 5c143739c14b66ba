"""Networks that this project did not train: ONNX by onnxruntime, OpenVINO IR by openvino."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dgrl.datasets.archive import require_readable
from dgrl.embedders.preprocessing import Preprocessing, choose, input_size, prepare
from dgrl.embedders.protocol import Resolution, network_digest
from dgrl.errors import InputError, one_line
from dgrl.evaluation.norms import require_norms
from dgrl.extras import package
from dgrl.images import Image, check_images

Floats = npt.NDArray[np.float32]
METADATA = "dgrl.preprocessing"  # entry of a file's metadata: Preprocessing as JSON
RESTORING = "dgrl.sr"  # another: by what the file restores LR images, or none
BATCH = 32


class ExternalNetwork:
    """A network with one input for HR and LR images; see ``protocol.Embedder``.

    Args:
        files: the network's; the first names it.
        run: from [B, 3, H, W] float32 to the output [B, D], or [B, D, 1, 1].
        size: height and width of the input, in pixels.
        params: how images are normalised.
        flip: add the embeddings of an image and of its mirror image.
        batch: images at once.
    """

    def __init__(
        self,
        files: Sequence[Path],
        run: Callable[[Floats], Any],
        size: tuple[int, int],
        params: Preprocessing,
        *,
        flip: bool,
        batch: int = BATCH,
    ) -> None:
        self.path, self.name = files[0], files[0].stem
        self.digest = network_digest(files, flip=flip)
        self.megabytes = sum(file.stat().st_size for file in files) / 1e6
        self.trained_on: frozenset[str] = frozenset()  # which such files do not say
        self.run, self.params, self.flip, self.batch = run, params, flip, batch
        self.height, self.width = size
        self.dimension = self._output(np.zeros((1, 3, *size), np.float32)).shape[1]

    def embed(self, images: Sequence[Image], resolution: Resolution) -> Floats:
        """Embed images of any size; see ``protocol.Embedder``."""
        check_images(images)
        parts = [np.empty((0, self.dimension), np.float32)]
        for start in range(0, len(images), self.batch):
            inputs = prepare(images[start : start + self.batch], self.height, self.width, self.params)
            outputs = self._output(inputs)
            if self.flip:
                outputs = _unit(outputs, start) + _unit(self._output(inputs[..., ::-1].copy()), start)
            parts.append(_unit(outputs, start))
        return np.concatenate(parts)

    def _output(self, inputs: Floats) -> Floats:
        try:
            found = np.asarray(self.run(inputs))
        except Exception as error:  # onnxruntime's have no class of their own in common
            raise InputError(f"{self.path} does not run ({one_line(error)}); export it again") from None
        outputs = found.reshape(found.shape[:2]) if found.shape[2:] == (1, 1) else found
        if outputs.ndim != 2 or len(outputs) != len(inputs) or outputs.dtype.kind != "f":
            raise InputError(
                f"{self.path}: its output is {found.dtype} {list(found.shape)} for {len(inputs)} images, not "
                "one embedding [N, D]; export the network without its classifier and with the embedding as "
                "first output"
            )
        return outputs.astype(np.float32, copy=False)


def load_onnx(path: Path, preprocessing: str | None, *, flip: bool = False) -> ExternalNetwork:
    """A network of an ``.onnx`` file; see ``catalog.load_embedder``."""
    ort = package("onnxruntime", "onnx", str(path))
    require_readable(path)
    options = ort.SessionOptions()
    options.log_severity_level = 4  # problems are raised, not written
    try:
        session = ort.InferenceSession(str(path), options, providers=ort.get_available_providers())
    except Exception as error:
        raise InputError(f"{path} is no readable ONNX file ({one_line(error)}); export it again") from None
    if len(session.get_inputs()) != 1:
        raise InputError(f"{path} has {len(session.get_inputs())} inputs; export it for images alone")
    image = session.get_inputs()[0]
    if image.type != "tensor(float)":
        raise InputError(f"{path} takes {image.type}, not tensor(float); export it with float32 input")
    shape = [size if isinstance(size, int) else None for size in image.shape]
    metadata = session.get_modelmeta().custom_metadata_map
    _require_plain(path, metadata.get(RESTORING, "none"))
    entry = metadata.get(METADATA)
    params = choose(path, preprocessing, None if entry is None else _parse(path, entry))
    output = session.get_outputs()[0].name
    return ExternalNetwork(
        [path],
        lambda batch: session.run([output], {image.name: batch})[0],
        input_size(path, shape, params),
        params,
        flip=flip,
        batch=shape[0] or BATCH,
    )


def load_openvino(path: Path, preprocessing: str | None, *, flip: bool = False) -> ExternalNetwork:
    """A network of an OpenVINO ``.xml`` file and its ``.bin``; see ``catalog.load_embedder``."""
    ov = package("openvino", "openvino", str(path))
    core = ov.Core()
    require_readable(path)
    if not path.with_suffix(".bin").is_file():
        raise InputError(f"{path} lacks its weights {path.with_suffix('.bin').name}; put them beside it")
    require_readable(path.with_suffix(".bin"))
    try:
        network = core.read_model(str(path))
        if len(network.inputs) != 1:
            raise InputError(f"{path} has {len(network.inputs)} inputs; export it for images alone")
        found = network.inputs[0].partial_shape
        if network.has_rt_info(RESTORING):
            _require_plain(path, network.get_rt_info(RESTORING).astype(str))
        shape = [size.get_length() if size.is_static else None for size in found]
        params = choose(path, preprocessing, _of_rt_info(path, network))
        height, width = input_size(path, shape, params)
        network.reshape([-1, 3, height, width])
        compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise InputError(
            f"{path} is no readable OpenVINO file ({one_line(error)}); export it again"
        ) from None
    return ExternalNetwork(
        [path, path.with_suffix(".bin")],
        lambda batch: compiled(batch)[0],
        (height, width),
        params,
        flip=flip,
    )


def _require_plain(path: Path, restoring: str) -> None:
    """Refuse a file that does what comes before the network here."""
    if restoring != "none":
        raise InputError(
            f"{path} restores LR images itself ({restoring}) and is for other programs; here export without "
            "--sr, and the images are restored before"
        )


def _of_rt_info(path: Path, network: Any) -> Preprocessing | None:
    """What this project's export writes; or OpenVINO's converter, into a network that takes BGR, 0..255."""
    if network.has_rt_info(METADATA):
        return _parse(path, network.get_rt_info(METADATA).astype(str))
    key = ["conversion_parameters", "reverse_input_channels"]
    if network.has_rt_info(key) and network.get_rt_info(key).astype(str) == "True":
        return Preprocessing(colour="bgr")
    return None


def _parse(path: Path, entry: str) -> Preprocessing:
    """The preprocessing that this project's export writes into a file."""
    try:
        values = json.loads(entry)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: its metadata {METADATA} are no JSON; export it again") from None
    return Preprocessing.parse(values, METADATA, str(path))


def _unit(outputs: Floats, start: int) -> Floats:
    """Rows of unit length."""
    norms = np.linalg.norm(outputs.astype(np.float64), axis=1, keepdims=True)
    require_norms(norms[:, 0], start, "check the network and its preprocessing")
    return np.asarray(outputs / norms, np.float32)
