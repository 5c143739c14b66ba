"""Weights to start from, whitenings, indexes and files beside networks, of any content."""

import io
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fake_network import FakeNetwork
from fuzz import CASES, attempt, damaged, fuzzed, tally  # noqa: F401
from hypothesis import example, given
from hypothesis import strategies as st
from test_fuzz_files import VALUES
from test_index import sign

from dgrl.datasets.cells import read_cells
from dgrl.embedders.adapted import load_whitening, save_whitening
from dgrl.embedders.preprocessing import choose
from dgrl.evaluation.adaptation import Whitening
from dgrl.evaluation.calibration import Calibration
from dgrl.search.index import COLUMNS, Index
from dgrl.weights.initial import read_weights
from pipeline.inputs import _read_memo
from pipeline.results import read_json
from pipeline.search import _calibration, _verdict

pytestmark = [pytest.mark.usefixtures("tally"), pytest.mark.filterwarnings("ignore")]

NETWORK = FakeNetwork()
JSON = VALUES.map(lambda each: json.dumps(each, default=str).encode())
TENSOR = st.builds(
    lambda shape, kind: torch.zeros(shape).to(kind),
    st.sampled_from([(), (0,), (3,), (2, 3, 1, 1)]),
    st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64]),
)
NAMES = st.sampled_from(
    [
        "layer1.0.conv1.weight",
        "module.layer1.0.conv1.weight",
        "blocks.1.1.conv_pw.weight",
        "bn1.bias",
        "state_dict",
    ]
)
STATES = st.recursive(
    TENSOR | st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.dictionaries(NAMES | st.text(max_size=5) | st.integers(), inner, max_size=4)
        | st.lists(inner, max_size=2)
    ),
    max_leaves=6,
)


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


WEIGHTS = saved({"state_dict": {"module.layer1.0.conv1.weight": torch.zeros(2, 2, 1, 1)}, "epoch": 3})


@fuzzed(CASES // 2)
@given(
    data=st.builds(saved, STATES) | damaged(WEIGHTS) | st.binary(),
    suffix=st.sampled_from([".pth", ".safetensors"]),
)
def test_weights(tmp_path: Path, data: bytes, suffix: str) -> None:
    """Files of model.weights with any content and damages."""
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(data)
    found = attempt(lambda: read_weights(path), str(path))
    assert found is None or all(isinstance(tensor, torch.Tensor) for tensor in found.values())


def whitening() -> bytes:
    size = NETWORK.embed([], "hr").shape[1]
    with TemporaryDirectory() as folder:
        path = Path(folder, "w.safetensors")
        save_whitening(
            path,
            Whitening(np.zeros(size), np.zeros(size), np.eye(size), 1.0, 100),
            NETWORK.digest,
            flip=False,
        )
        return path.read_bytes()


@fuzzed(CASES // 5)
@given(data=damaged(whitening()) | st.binary())
def test_whitening(tmp_path: Path, data: bytes) -> None:
    """Files of dgrl adapt with damaged bytes."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    found = attempt(lambda: load_whitening(path, NETWORK, flip=False), str(path))
    if found is not None:
        found.apply(NETWORK.embed([], "hr"), "query")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("faiss")
    folder = tmp_path_factory.mktemp("index") / "index"
    rows = pd.DataFrame([[f"/a/{i}.png", "1", None, "0" * 64, "hr"] for i in range(4)], columns=list(COLUMNS))
    found = Index.empty("m.onnx", NETWORK.digest)
    found.put(rows, np.eye(4, 8, dtype=np.float32))
    found.convert("hnsw")
    found.save(folder)
    return folder


@fuzzed(CASES // 5)
@given(
    name=st.sampled_from(["index.json", "rows.parquet", "vectors.npy", "faiss.index"]),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8)), max_size=4),
    replaced=st.none()
    | st.binary(max_size=200)
    | VALUES.map(lambda each: json.dumps(each, default=str).encode()),
    signed=st.booleans(),
)
@example(name="vectors.npy", edits=[(0.265625, 1, b"")], replaced=None, signed=True)  # a TokenError of NumPy
def test_index(
    tmp_path: Path, index: Path, name: str, edits: Any, replaced: bytes | None, signed: bool
) -> None:
    """Indexes of which a file is damaged."""
    folder = tmp_path / "index"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(index, folder)
    data = (folder / name).read_bytes() if replaced is None else replaced
    for place, removed, inserted in edits:
        start = int(place * len(data))
        data = data[:start] + inserted + data[start + removed :]
    (folder / name).write_bytes(data)
    if signed and name in ("rows.parquet", "vectors.npy"):  # else the digest is all that is ever tried
        sign(folder)
    found = attempt(lambda: Index.load(folder), str(folder))
    if found is not None and len(found.rows):
        (matches,) = found.search(np.asarray(found.vectors[:1]), 2)
        assert len(found.rows.iloc[matches.rows]) == len(matches.rows)


CALIBRATION = {
    "model": "d", "method": "isotonic", "similarity": [0.0, 0.5], "log_odds": [-1.0, 1.0],
    "thresholds": {"0.001": 0.4}, "pairs": [10, 20],
}  # fmt: skip


@st.composite
def calibrations(draw: st.DrawFn) -> bytes:
    """A good one with other values, or a damaged one."""
    values: dict[str, Any] = dict(CALIBRATION)
    for key in draw(st.lists(st.sampled_from(sorted(values)), max_size=2)):
        values[key] = draw(
            VALUES | st.dictionaries(st.sampled_from(["0.01", "1e-3", "nan", "2"]), st.floats())
        )
    return draw(damaged(json.dumps(values).encode()) | st.just(json.dumps(values).encode()))


@fuzzed(CASES // 5)
@given(data=calibrations() | st.binary(), similarity=st.floats(-1, 1))
def test_calibration(tmp_path: Path, data: bytes, similarity: float) -> None:
    """calibration.json with any values and damages."""
    path = tmp_path / "calibration.json"
    path.write_bytes(data)
    found: Calibration | None = attempt(lambda: _calibration(tmp_path / "m.onnx", "d"), str(path))
    if found is not None:
        assert _verdict(found, None, 0.1)(similarity).startswith(
            ("unknown", "same person 0", "same person 1")
        )


SIDECAR = b"colour: rgb\nmean: [1, 2, 3]\nstd: [1.0, 2, 3e0]\nheight: 32\nwidth: 16\n"


@fuzzed(CASES // 5)
@given(data=damaged(SIDECAR) | st.binary())
def test_sidecar(tmp_path: Path, data: bytes) -> None:
    """YAML files beside a network with damaged bytes."""
    path = tmp_path / "m.yaml"
    path.write_bytes(data)
    found = attempt(lambda: choose(tmp_path / "m.onnx", None, None), str(path))
    assert found is None or min(found.std) > 0


PAIRS = b"query,gallery,person_id\na.png,b.png,1\nc.png,d.png,2\n"


@fuzzed(CASES // 5)
@given(data=damaged(PAIRS) | st.binary())
def test_pairs(tmp_path: Path, data: bytes) -> None:
    """Tables of pairs for dgrl adapt with damaged bytes."""
    path = tmp_path / "pairs.csv"
    path.write_bytes(data)
    found = attempt(lambda: read_cells(path), str(path))
    assert found is None or all(len(row) == len(found[0]) for row in found[1])


@fuzzed(CASES // 5)
@given(data=damaged(b'{"options": {"seed": 0}, "digests": {"query": "0"}}') | JSON | st.binary())
def test_json(tmp_path: Path, data: bytes) -> None:
    """JSON files of the stages, and what the stage inputs remembers, with any values."""
    path = tmp_path / "split.json"
    path.write_bytes(data)
    attempt(lambda: read_json(path)["options"], str(path))
    assert isinstance(_read_memo(path), dict)
