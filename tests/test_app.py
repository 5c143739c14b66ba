"""dgrl app over HTTP: what an upload is answered with, and what is refused."""

import json
import math
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from fake_network import FakeNetwork
from typer.testing import CliRunner

pytest.importorskip("faiss")
pytest.importorskip("uvicorn")

from small_app import OCTETS, decoded, fill_index, make_index, person, request, serving

from dgrl import limits
from dgrl.embedders import embedder as door
from dgrl.images import encode_jpeg, encode_png
from pipeline.app import listen
from pipeline.cli import app

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_written: list[str] | None = None  # files opened to be written while a test asks for them


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _written is not None and event == "open" and arguments[2] is not None and arguments[2] & WRITES:
        _written.append(str(arguments[0]))


sys.addaudithook(_watch)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of twelve persons by a network without weights; the working directory is its parent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(door, "load_embedder", lambda *_, **__: FakeNetwork())
    Path("model.onnx").touch()
    return make_index(tmp_path, "model.onnx")


@pytest.fixture
def port(index: Path) -> Iterator[int]:
    with serving(index) as found:
        yield found


def search(port: int, image: bytes, path: str = "/search") -> str:
    status, text, _ = request(port, "POST", path, image)
    assert status == 200, text
    return text


def ranked(text: str) -> list[tuple[int, float]]:
    """Persons and similarities, by rank."""
    found = re.findall(r'alt="match \d+: gallery/p(\d+)\.png".*?</b> ([-.\d]+)<br>', text, re.DOTALL)
    return [(int(number), float(similarity)) for number, similarity in found]


def images(text: str) -> list[np.ndarray]:
    return [decoded(link) for link in re.findall(r'src="(data:image/png;base64,[^"]+)"', text)]


def test_the_ten_nearest_are_those_of_brute_force(port: int) -> None:
    for number in range(3):
        query = person(number)
        text = search(port, encode_png(query))
        network = FakeNetwork()
        gallery = [np.asarray(PIL.Image.open(f"gallery/p{each}.png")) for each in range(12)]
        similarity = (network.embed(gallery, "hr") @ network.embed([query], "hr").T)[:, 0]
        expected = np.argsort(-similarity)[:10].tolist()
        assert [each for each, _ in ranked(text)] == expected
        assert expected[0] == number
        np.testing.assert_allclose([value for _, value in ranked(text)], similarity[expected], atol=6e-4)
        np.testing.assert_array_equal(images(text)[1], gallery[number])


def test_a_low_resolution_image_is_restored_and_it_says_why(port: int) -> None:
    query = person(5, factor=4)
    text = search(port, encode_png(query))
    assert "12x24 pixels: shorter than 32, so taken for low-resolution, and enlarged 2 times by" in text
    captured, restored = images(text)[:2]
    np.testing.assert_array_equal(captured, query)
    np.testing.assert_array_equal(restored, cv2.resize(query, (24, 48), interpolation=cv2.INTER_CUBIC))
    assert ranked(text)[0][0] == 5


def test_a_high_resolution_image_is_fed_as_it_is(port: int) -> None:
    text = search(port, encode_png(person(5)))
    assert "48x96 pixels: not shorter than 32, so taken for high-resolution" in text
    assert len(images(text)) == 1 + 10
    assert "There is no probability" in text


def test_the_answers_are_those_of_dgrl_search(index: Path) -> None:
    odds = {"similarity": [0.5, 0.9], "log_odds": [0.0, math.log(10)], "thresholds": {"0.001": 0.6}}
    calibration = {"model": "f" * 64, "method": "logistic", "pairs": [9, 99], **odds}
    Path("calibration.json").write_text(json.dumps(calibration))
    Path("query.png").write_bytes(encode_png(person(7, factor=4)))
    with serving(index) as port:
        text = search(port, Path("query.png").read_bytes())
    table = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["search", "query.png", "--index", "people"]).output
    expected = re.findall(r"│ (unknown|same person [.\d]+)", table)
    assert re.findall(r"<b>(unknown|same person [.\d]+)</b>", text) == expected
    assert len(expected) == 10
    assert len(set(expected)) > 1


def test_who_is_removed_is_not_found_any_more(port: int) -> None:
    query = encode_png(person(3))
    assert ranked(search(port, query))[0][0] == 3
    Path("gallery/p3.png").unlink()
    assert "image is gone" in search(port, query)
    fill_index(Path.cwd(), "model.onnx")
    text = search(port, query)
    assert 3 not in [number for number, _ in ranked(text)]
    assert "image is gone" not in text
    assert "10 of 11 images" in text


WHOLE = encode_png(person(0))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "this file is not a readable image"),
        (b"<svg onload=alert(1)>", "this file is not a readable image"),
        (WHOLE[:-30], "this file is not a readable image"),
        (encode_jpeg(person(0), 90)[:-100], "this file is not a readable image"),
        (
            encode_png(np.zeros((101, 100, 3), np.uint8)),
            "this file has 100x101 pixels, over the limit",
        ),
    ],
)
def test_what_is_no_image_is_named_in_a_line(port: int, data: bytes, said: str) -> None:
    before = limits.limits()
    limits.use(limits.Limits(image_pixels=10_000))
    try:
        status, text, _ = request(port, "POST", "/search", data)
    finally:
        limits.use(before)
    assert status == 422
    assert text.startswith(said)
    assert "\n" not in text


def test_a_file_over_the_limit_is_refused(port: int) -> None:
    before = limits.limits()
    limits.use(limits.Limits(file_bytes=len(WHOLE) - 1))
    try:
        assert request(port, "POST", "/search", WHOLE)[0] == 413
    finally:
        limits.use(before)
    assert request(port, "POST", "/search", WHOLE)[0] == 200


def test_nothing_is_written(port: int) -> None:
    global _written
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    _written = []
    try:
        with Path("probe").open("w"):
            pass
        search(port, encode_png(np.tile(person(1, factor=4), (1, 400, 1))))  # more than a spool keeps
        assert _written == ["probe"]
    finally:
        _written = None
    Path("probe").unlink()
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_another_host_name_is_refused(port: int, host: str) -> None:
    """A name of somebody else's that resolves to this machine (DNS rebinding)."""
    for method, path in (("GET", "/"), ("POST", "/search")):
        status, text, _ = request(port, method, path, WHOLE, {"Host": host, **OCTETS})
        assert status == 400
        assert "data:" not in text
    assert request(port, headers={"Host": f"localhost:{port}"})[0] == 200


def test_another_site_may_neither_send_nor_read(port: int) -> None:
    origin = {"Origin": "https://evil.example"}
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
        assert request(port, "POST", "/search", WHOLE, {**origin, "Content-Type": kind})[0] == 415
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for method, path, headers in (
        ("OPTIONS", "/search", origin | asked),
        ("POST", "/search", {**origin, **OCTETS}),
    ):
        _, _, found = request(port, method, path, WHOLE, headers)
        assert not [name for name in found if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "path",
    [
        "/gallery/p0.png", "/../gallery/p0.png", "/search/../../etc/passwd", "//etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "/?file=/etc/passwd", "/people/vectors.npy",
    ],
)  # fmt: skip
def test_no_address_reads_a_file(port: int, path: str) -> None:
    status, text, _ = request(port, path=path)
    assert status == (200 if path.startswith("/?") else 404)
    assert "root:x:" not in text


def test_the_page_forbids_what_it_does_not_need(port: int) -> None:
    _, page, headers = request(port)
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers
    assert not re.search(r"""(?:src|href)=["'](?!data:)|https?://|url\(|@import""", page)


def test_only_this_machine_reaches_it(port: int) -> None:
    addresses = {str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)}
    for address in [*(addresses - {"127.0.0.1"}), "127.0.0.2"]:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address, port), 5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--index", "gone"], "gone is no index"),
        (["--index", "people", "--fmr", "0.5"], "--fmr and --prior need a calibration.json"),
        (["--index", "people", "--port", "{port}"], "another by --port"),
    ],
)
def test_a_mistake_is_named_before_there_is_a_page(port: int, arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["app", *(each.format(port=port) for each in arguments)])
    assert said in str(done.exception)


def test_the_command_ends_with_ctrl_c(index: Path) -> None:
    with listen(0) as found:
        port = found.getsockname()[1]
    seen: list[str] = []

    def press() -> None:
        while not seen:
            with suppress(ConnectionRefusedError):
                seen.append(request(port)[1])
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    done = CliRunner().invoke(app, ["app", "--index", "people", "--port", str(port)])
    thread.join()
    assert (done.exit_code, done.output) == (0, f"http://127.0.0.1:{port} (Ctrl-C ends it)\n")
    assert "Drop an image" in seen[0]
