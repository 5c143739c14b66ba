"""BoxMOT's own backend reads an exported network; skipped where BoxMOT is not installed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import random_images, write_network

from dgrl import Embedder

pytest.importorskip("onnxscript")
backend = pytest.importorskip("boxmot.reid.backends.onnx_backend")

from dgrl.embedders.export_onnx import export_onnx  # noqa: E402 (it needs the packages)

pytestmark = pytest.mark.slow


def test_boxmot_has_the_same_embeddings_of_a_frames_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes of the network's size, which neither of the two resizes."""
    monkeypatch.setattr(
        backend.ONNXBackend, "_ensure_onnxruntime_installed", lambda self: None
    )  # else by pip
    model = write_network(tmp_path / "model.safetensors")
    export_onnx(model, tmp_path / "gallery.onnx")
    frame = np.concatenate(random_images(6), axis=1)  # RGB
    boxes = np.array([[40 * i + 3, 5, 40 * i + 3 + 32, 5 + 64] for i in range(6)])
    theirs = backend.ONNXBackend(tmp_path / "gallery.onnx", torch.device("cpu"), False)
    found = theirs.get_features(boxes, np.ascontiguousarray(frame[..., ::-1]))  # BGR
    expected = Embedder.load(model).embed_boxes(frame, boxes)
    assert found.shape == expected.shape
    assert (found.astype(float) * expected).sum(axis=1).min() >= 0.9999
