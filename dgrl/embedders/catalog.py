"""The kinds of network that can embed: an explicit list, by the suffix of the file."""

from collections.abc import Callable, Mapping
from pathlib import Path

from dgrl.embedders.adapted import Adapted, load_whitening
from dgrl.embedders.external import load_onnx, load_openvino
from dgrl.embedders.folder import read_folder
from dgrl.embedders.protocol import Embedder
from dgrl.embedders.trained import load_trained
from dgrl.errors import InputError

LOADERS: Mapping[str, Callable[..., Embedder]] = {
    ".safetensors": load_trained,
    ".onnx": load_onnx,
    ".xml": load_openvino,
}


def load_embedder(
    path: Path, preprocessing: str | None = None, *, flip: bool = False, whitening: Path | None = None
) -> Embedder:
    """A network that is ready to embed.

    Args:
        path: ``model.safetensors`` of a run, an ``.onnx`` file, an OpenVINO ``.xml`` with its ``.bin``, or a
            folder of ``export_hf``, whose flip and whitening count.
        preprocessing: a name of ``preprocessing.PREPROCESSING`` for a file that does not say it itself.
        flip: embed an image as the sum of itself and its mirror image, each of unit length.
        whitening: a file that ``adapted.save_whitening`` wrote for this network, with this ``flip``.

    Raises:
        InputError: if the file is missing, damaged, of another kind, or lacks what it needs.
    """
    if path.is_dir():
        folder = read_folder(path)
        path, flip, whitening = folder.model, flip or folder.flip, whitening or folder.whitening
    if path.suffix.lower() not in LOADERS:
        raise InputError(f"{path} is no network that can be read; give a file of {', '.join(LOADERS)}")
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a network")
    network = LOADERS[path.suffix.lower()](path, preprocessing, flip=flip)
    return network if whitening is None else Adapted(network, load_whitening(whitening, network, flip=flip))


def parse_model(text: str) -> tuple[Path, str | None]:
    """``PATH`` or ``PATH@PREPROCESSING`` to both parts."""
    path, _, name = text.rpartition("@")
    return (Path(path), name) if path and not Path(text).exists() else (Path(text), None)
