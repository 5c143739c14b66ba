"""params.yaml, .mat files, servers and model files of any content: read, or refused in one line."""

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import yaml
from fuzz import CASES, attempt, damaged, fuzzed, tally  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from test_cuhk03 import small_counts, write_mat  # noqa: F401
from test_training import MODEL

from dgrl.datasets import cuhk03
from dgrl.datasets import fetch as fetching
from dgrl.datasets.fetch import RemoteFile, fetch
from dgrl.model.network import DGRL
from dgrl.superres.upscale import load_rcan
from dgrl.weights.checkpoint import load_checkpoint, save_checkpoint
from dgrl.weights.published import load_model, save_model
from pipeline.params import load_params

pytestmark = [
    pytest.mark.usefixtures("tally"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors"),
]

REPOSITORY = Path(__file__).parents[1]
PARAMS = (REPOSITORY / "params.yaml").read_bytes()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["paper", "(a+)+", "(?P<person_id>x)", "1e-5", "c1", "*", "none"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@st.composite
def params(draw: st.DrawFn) -> bytes:
    """The committed params with one or two values, sections or keys that are others."""
    values = yaml.safe_load(PARAMS)
    for _ in range(draw(st.integers(1, 2))):
        section: Any = values
        key = draw(st.sampled_from(sorted(section)))
        while isinstance(section[key], dict) and section[key] and draw(st.integers(0, 3)):
            section = section[key]
            key = draw(st.sampled_from(sorted(section, key=str)))
        if draw(st.integers(0, 9)) == 0:
            del section[key]
            key = draw(st.text(max_size=5))
        section[key] = draw(VALUES)
        if not values:
            break
    return yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "replace")


@fuzzed()
@given(data=params() | damaged(PARAMS) | st.binary())
def test_params(tmp_path: Path, data: bytes) -> None:
    """params.yaml with any values, keys and damages."""
    path = tmp_path / "params.yaml"
    path.write_bytes(data)
    attempt(lambda: load_params(path), "params.yaml")


def mat() -> bytes:
    with TemporaryDirectory() as folder:
        return write_mat(Path(folder, "cuhk-03.mat")).read_bytes()


@pytest.mark.usefixtures("small_counts")
@fuzzed()
@given(data=damaged(mat()) | st.binary())
def test_mat(tmp_path: Path, data: bytes) -> None:
    """.mat files of CUHK03 with damaged bytes."""
    path = tmp_path / "cuhk-03.mat"
    path.write_bytes(data)
    attempt(
        lambda: (cuhk03.official_splits(path), list(cuhk03.images(cuhk03.Cuhk03Params(), path))), str(path)
    )


BODY = bytes(range(256)) * 8
FILE = RemoteFile("a.zip", (), "https://example.org/form", hashlib.md5(BODY).hexdigest())
NUMBERS = st.integers(-1, 3000).map(str) | st.sampled_from(["9" * 5000, "0x10", "1e3", "", "٣"])
HEADERS = st.one_of(
    st.tuples(st.sampled_from(["Content-Length", "Retry-After", "Age"]), NUMBERS),
    st.tuples(st.just("Content-Range"), st.builds("bytes {}-{}/{}".format, NUMBERS, NUMBERS, NUMBERS)),
    st.tuples(
        st.just("Location"),
        st.sampled_from(["http://[::1", "//", "file:///etc/passwd", "/b", "a:b", "http://"]),
    ),
    st.tuples(st.just("Transfer-Encoding"), st.sampled_from(["chunked", "gzip", "chunked, chunked", ""])),
    st.tuples(st.just("Content-Encoding"), st.sampled_from(["gzip", "br", "zstd", "x"])),
    st.tuples(st.just("Content-Type"), st.sampled_from(["text/html", "application/zip", "\xff"])),
    st.tuples(st.text(max_size=8), st.text(max_size=20)),
)
STATUS = st.sampled_from(
    ["200 OK", "206 Partial", "301 Moved", "302", "416 Range", "503 Later", "100 Continue", "999"]
)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    status = draw(STATUS | st.text(max_size=8))
    lines = [f"HTTP/1.1 {status}", *map(": ".join, draw(st.lists(HEADERS, max_size=4)))]
    head = "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n"
    return head + draw(st.sampled_from([BODY, BODY[:-1], b"", b"5\r\nhello\r\n0\r\n\r\n"]))


class Server:
    """Gives one answer to all, and hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/a.zip"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                try:
                    connection.recv(1 << 16)
                    connection.sendall(self.answer)
                    connection.shutdown(socket.SHUT_WR)
                except OSError:  # the client has hung up
                    continue


@pytest.fixture(scope="module")
def server() -> Server:
    return Server()


@fuzzed()
@given(answer=answers() | st.binary())
def test_http(server: Server, answer: bytes) -> None:
    """Servers with any status line, headers and body."""
    server.answer = answer
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as cache:
        patch.setattr(fetching, "BACKOFF", 0.0)
        patch.setattr(fetching, "TIMEOUT", (2.0, 2.0))
        patch.setenv("NO_PROXY", "127.0.0.1")
        file = RemoteFile(FILE.name, (server.url,), FILE.page, FILE.md5)
        found = attempt(lambda: fetch(file, Path(cache)), FILE.name)
        assert found is None or found.read_bytes() == BODY


ARCHITECTURE = {
    "num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_group": 1, "num_block": 1, "squeeze_factor": 16,
    "upscale": 2, "res_scale": 1.0, "img_range": 255.0,
}  # fmt: skip


def rcan(factor: int = 2) -> bytes:
    from basicsr.archs.rcan_arch import RCAN

    architecture = {**ARCHITECTURE, "upscale": factor}
    return save(RCAN(**architecture).state_dict(), {"architecture": json.dumps(architecture)})


def model() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        save_model(path, DGRL(MODEL, 5), MODEL, 5)
        return path.read_bytes()


def checkpoint() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.pt")
        state = {"step": 3, "model": {"weight": torch.zeros(3)}, "history": [{"loss": 1.0}]}
        save_checkpoint(path, state, "step 3", "")
        return path.read_bytes()


TENSOR_VALUES = st.sampled_from(["F16", "I64", "BOOL", "F8_E4M3", [3], [0], [-1], [2**62, 2**62], [0, 4]])


@cache
def parted(good: bytes) -> tuple[bytes, list[list[bytes]]]:
    """The header of a safetensors file, and what may follow it: mostly the tensors as they are."""
    (size,) = struct.unpack("<Q", good[:8])
    tensors = good[8 + size :]
    damages = [[tensors[:-4]], [tensors, b"1"], [b"\xff" * len(tensors)]]
    return good[8 : 8 + size], [[tensors]] * 3 + damages


@st.composite
def safetensors_files(draw: st.DrawFn, good: bytes, entry: str) -> list[bytes]:
    """A good file, whose header has other values or is damaged, or is shorter or longer.

    In parts, of which the long ones are always the same: hypothesis keeps all that was ever drawn.
    """
    text, endings = parted(good)
    header = json.loads(text)
    values = json.loads(header["__metadata__"][entry])
    names = sorted(header.keys() - {"__metadata__"})
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(names))
        part = draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        header[name] = header[name] | {part: draw(TENSOR_VALUES)}
    inner = values.get("model", values)
    for _ in range(draw(st.integers(0, 2))):
        inner[draw(st.sampled_from(sorted(inner)))] = draw(VALUES)
    header["__metadata__"][entry] = json.dumps(values)
    text = json.dumps(header).encode()
    if draw(st.integers(0, 3)) == 0:
        text = draw(damaged(text))
    size = draw(st.sampled_from([len(text)] * 8 + [0, 2**63, len(text) + 1]))
    return [struct.pack("<Q", size), text, *draw(st.sampled_from(endings))]


@fuzzed(CASES // 2)
@given(parts=safetensors_files(rcan(), "architecture") | st.tuples(damaged(rcan()) | st.binary()))
def test_rcan(tmp_path: Path, parts: Sequence[bytes]) -> None:
    """rcan.safetensors with any header and damages."""
    path = tmp_path / "rcan.safetensors"
    path.write_bytes(b"".join(parts))
    network = attempt(lambda: load_rcan(path), str(path))
    assert network is None or network(torch.zeros(1, 3, 4, 4)).shape == (1, 3, 8, 8)


@fuzzed(CASES // 10)
@given(parts=safetensors_files(model(), "dgrl") | st.tuples(st.binary()))
def test_model(tmp_path: Path, parts: Sequence[bytes]) -> None:
    """model.safetensors with any header and damages."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"".join(parts))
    attempt(lambda: load_model(path), str(path))


@fuzzed(2 * CASES // 5)
@given(data=damaged(checkpoint()) | st.binary())
def test_checkpoint(tmp_path: Path, data: bytes) -> None:
    """checkpoint.pt with damaged bytes."""
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(data)
    state = attempt(lambda: load_checkpoint(path))
    assert state is None or isinstance(state, dict)
