"""Fetching against servers on the loopback that do everything a bad mirror does."""

import hashlib
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgrl.datasets import fetch as module
from dgrl.datasets.catalog import KINDS
from dgrl.datasets.fetch import RemoteFile, fetch
from dgrl.errors import InputError

CHUNK = 1024
BODY = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(256))  # 8 KiB without a period
OTHER = BODY[::-1]
HALF = len(BODY) // 2
PAGE = "https://example.org/form"
DIGITS = "9" * 5000  # more than int() takes


@dataclass
class Answer:
    """What a mirror does with one request; as it is, what a good server does."""

    body: bytes = BODY
    status: int | None = None  # instead of 200 or 206, without a body
    ranges: bool = True  # obeys Range
    length: bool = True  # tells the length
    chunked: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    cut: int | None = None  # bytes sent before the connection breaks
    shift: int = 0  # bytes by which it misses the range asked for
    stall: threading.Event | None = None  # what it waits for before the connection breaks


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mirror: "Mirror"

    def do_GET(self) -> None:
        wanted, answers = self.headers.get("Range"), self.mirror.answers
        self.mirror.ranges.append(wanted)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        start = (int(wanted[len("bytes=") : -1]) if wanted and answer.ranges else 0) + answer.shift
        if answer.status or start >= len(answer.body) > 0:
            self.send_response(answer.status or 416)
            answer = replace(answer, body=b"", chunked=False)
        else:
            self.send_response(206 if start else 200)
            if start:
                total = len(answer.body)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_body(answer, answer.body[start:])

    def send_body(self, answer: Answer, rest: bytes) -> None:
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif answer.length:
            self.send_header("Content-Length", str(len(rest)))
        for name, value in (("Connection", "close"), *answer.headers):
            self.send_header(name, value)
        self.end_headers()
        sent = rest[: answer.cut]
        self.wfile.write(b"%x\r\n%b\r\n" % (len(sent), sent) if answer.chunked else sent)
        if answer.chunked and answer.cut is None:
            self.wfile.write(b"0\r\n\r\n")
        if answer.stall:
            answer.stall.wait(5)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@dataclass
class Mirror:
    """A server that gives its answers one after another, and the last one for ever."""

    url: str
    answers: list[Answer]
    ranges: list[str | None] = field(default_factory=list)  # of every request, in order


@contextmanager
def serving(*answers: Answer) -> Iterator[Mirror]:
    handler = type("Bound", (Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client may hang up
        mirror = Mirror(f"http://127.0.0.1:{server.server_address[1]}/a.zip", list(answers) or [Answer()])
        handler.mirror = mirror  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield mirror
        finally:
            server.shutdown()


Serve = Callable[..., Mirror]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda *answers: stack.enter_context(serving(*answers))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF", 0.0)
    monkeypatch.setattr(module, "CHUNK", CHUNK)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def remote(*mirrors: Mirror | str) -> RemoteFile:
    urls = tuple(mirror if isinstance(mirror, str) else mirror.url for mirror in mirrors)
    return RemoteFile("a.zip", urls, PAGE, hashlib.md5(BODY).hexdigest())


def error_of(file: RemoteFile, cache: Path) -> str:
    with pytest.raises(InputError) as raised:
        fetch(file, cache)
    assert str(raised.value).isprintable()  # one line
    assert len(str(raised.value)) < 3000
    return str(raised.value)


def test_a_file_is_fetched_in_silence(serve: Serve, tmp_path: Path, capfd: Any) -> None:
    cache = tmp_path / "new/cache"
    assert fetch(remote(serve()), cache) == cache / "a.zip"
    assert (cache / "a.zip").read_bytes() == BODY
    assert not list(cache.glob("*.part"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("answers", "begun"),
    [
        ([Answer(cut=3 * CHUNK), Answer(cut=2 * CHUNK), Answer()], [0, 3 * CHUNK, 5 * CHUNK]),
        ([Answer(cut=3 * CHUNK, chunked=True), Answer()], [0, 3 * CHUNK]),
        ([Answer(cut=HALF), Answer(ranges=False)], [0, HALF]),
        ([Answer(cut=HALF), Answer(shift=CHUNK), Answer()], [0, HALF, 0]),
        ([Answer(status=500), Answer(status=503), Answer(status=429), Answer()], [0, 0, 0, 0]),
    ],
)
def test_a_mirror_that_fails_is_asked_for_what_is_missing(
    serve: Serve, tmp_path: Path, answers: list[Answer], begun: list[int]
) -> None:
    mirror = serve(*answers)
    assert fetch(remote(mirror), tmp_path).read_bytes() == BODY
    assert mirror.ranges == [f"bytes={start}-" if start else None for start in begun]


@pytest.mark.parametrize(
    ("part", "requests"),  # a whole part only gets its name
    [(BODY, 1), (BODY + b"more", 2), (OTHER[:HALF], 2), (b"", 1)],
)
def test_whatever_came_before_does_not_spoil_the_only_mirror(
    serve: Serve, tmp_path: Path, part: bytes, requests: int
) -> None:
    (tmp_path / "a.zip.part").write_bytes(part)
    mirror = serve()
    assert fetch(remote(mirror), tmp_path).read_bytes() == BODY
    assert len(mirror.ranges) == requests


@pytest.mark.parametrize(
    "answer",
    [
        Answer(length=False),
        Answer(length=False, headers=(("Content-Length", DIGITS),)),
        Answer(length=False, headers=(("Content-Length", "-1"),)),
        Answer(headers=(("Content-Encoding", "gzip"),)),  # of the file itself, not of the transfer
        Answer(headers=(("Content-Range", f"bytes {DIGITS}-{DIGITS}/{DIGITS}"), ("Retry-After", DIGITS))),
    ],
)
def test_odd_headers_do_not_matter(serve: Serve, tmp_path: Path, answer: Answer) -> None:
    assert fetch(remote(serve(answer)), tmp_path).read_bytes() == BODY


def test_every_file_with_a_mirror_has_a_digest() -> None:
    files = [kind.remote for kind in KINDS.values() if kind.remote]
    assert all(len(file.md5 or "") == 32 for file in files if file.mirrors)


@pytest.mark.parametrize("answer", [Answer(body=OTHER), Answer(status=404)])
def test_what_will_not_get_better_is_asked_for_once(serve: Serve, tmp_path: Path, answer: Answer) -> None:
    wrong, good = serve(answer), serve()
    assert fetch(remote(wrong, good), tmp_path).read_bytes() == BODY
    assert wrong.ranges == good.ranges == [None]  # nothing of the wrong file is continued


def test_a_silent_mirror_is_left(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", (1.0, 0.1))
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    release = threading.Event()
    slow, good = serve(Answer(cut=CHUNK, stall=release)), serve()
    assert fetch(remote(slow, good), tmp_path).read_bytes() == BODY
    release.set()
    assert slow.ranges == [None, f"bytes={CHUNK}-"]
    assert good.ranges == [f"bytes={2 * CHUNK}-"]


@pytest.mark.parametrize(
    "answer",
    [Answer(b"<p>for sale</p>", ranges=False, headers=(("Content-Type", "text/html"),)), Answer(status=403)],
)
def test_what_cannot_be_the_file_does_not_cost_the_part(serve: Serve, tmp_path: Path, answer: Answer) -> None:
    bad, good = serve(answer), serve()
    (tmp_path / "a.zip.part").write_bytes(BODY[:HALF])
    assert fetch(remote(bad, good), tmp_path).read_bytes() == BODY
    assert good.ranges == [f"bytes={HALF}-"]


@pytest.mark.parametrize(
    "location",
    ["http://[::1", "htp://x", "http://", "http://:x/", f"http://{'a' * 70}.invalid/", "http://127.0.0.1:1/",
     "file:///etc/passwd", "http://127.0.0.1:99999/", "/a.zip", DIGITS, "htp://x\r\n y"],
)  # fmt: skip
def test_a_redirect_to_a_broken_address_ends_in_one_line(serve: Serve, tmp_path: Path, location: str) -> None:
    bad = serve(Answer(status=302, headers=(("Location", location),)))
    assert "gives no usable answer (" in error_of(remote(bad), tmp_path)


def test_the_message_names_every_mirror_and_what_to_do(serve: Serve, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}/a.zip"
    gone, cut, wrong = (serve(Answer(status=404)), serve(Answer(cut=0)), serve(Answer(OTHER)))
    message = error_of(remote(dead, "htp://x", gone, cut, wrong), tmp_path)
    for expected in (
        f"{dead} gives no usable answer ([Errno 111] Connection refused)",
        "htp://x gives no usable answer (No connection adapters were found for 'htp://x')",
        f"{gone.url} answers 404 Not Found",
        f"{cut.url} broke off after 0 bytes",
        f"{wrong.url} sent MD5 {hashlib.md5(OTHER).hexdigest()} instead of",
        f"get it from {PAGE} and put it at {tmp_path / 'a.zip'}",
    ):
        assert expected in message
    assert not (tmp_path / "a.zip").exists()


def test_a_whole_file_is_not_fetched_again(tmp_path: Path) -> None:
    assert "no public mirror" in error_of(remote(), tmp_path)
    (tmp_path / "a.zip").write_bytes(BODY)
    assert fetch(remote(), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("damage", [BODY[:-1], BODY[:-1] + b"!", b""])
def test_a_damaged_file_is_replaced_or_left(serve: Serve, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(damage)
    assert "a.zip is damaged" in error_of(remote(serve(Answer(status=404))), tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == damage
    assert fetch(remote(serve()), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("name", ["a.zip", "a.zip.part", ".a.zip.lock"])
def test_a_folder_in_the_way_is_named(serve: Serve, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert f"{tmp_path / name} " in error_of(remote(serve()), tmp_path)
    (tmp_path / "file").touch()
    assert "another cache" in error_of(remote(serve()), tmp_path / "file")


@pytest.mark.parametrize("name", ["a.zip", "a.zip.part", ".a.zip.lock"])
def test_nothing_is_written_through_a_link(serve: Serve, tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(OTHER)
    (tmp_path / name).symlink_to(precious)
    if name == "a.zip":  # a link to a whole file would be right; this one is replaced
        assert fetch(remote(serve()), tmp_path).read_bytes() == BODY
    else:
        assert f"{tmp_path / name} " in error_of(remote(serve()), tmp_path)
    assert precious.read_bytes() == OTHER


def test_a_killed_process_is_continued_where_it_was(serve: Serve, tmp_path: Path) -> None:
    release = threading.Event()
    mirror = serve(Answer(cut=3 * CHUNK, stall=release), Answer())
    file, part = remote(mirror), tmp_path / "a.zip.part"
    code = (
        "from pathlib import Path; from dgrl.datasets import fetch as module; "
        f"module.CHUNK = {CHUNK}; module.fetch(module.{file!r}, Path({str(tmp_path)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1]) as process:
        while process.poll() is None and not (part.exists() and part.stat().st_size == 3 * CHUNK):
            time.sleep(0.01)
        process.kill()
    release.set()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "a.zip").exists()
    assert fetch(file, tmp_path).read_bytes() == BODY
    assert mirror.ranges == [None, f"bytes={3 * CHUNK}-"]


def test_two_at_once_fetch_once(serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    release = threading.Event()
    mirror = serve(Answer(cut=HALF, stall=release), Answer())
    threads = [threading.Thread(target=fetch, args=(remote(mirror), tmp_path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    while all(thread.is_alive() for thread in threads) and "waiting for another" not in caplog.text:
        time.sleep(0.01)
    release.set()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert "waiting for another process" in caplog.text
    assert mirror.ranges == [None, f"bytes={HALF}-"]


ANSWERS = st.builds(
    Answer,
    body=st.sampled_from([BODY, OTHER, BODY[:-1], BODY + b"!"]),
    status=st.sampled_from([None, None, None, 404, 500]),
    ranges=st.booleans(),
    length=st.booleans(),
    chunked=st.booleans(),
    cut=st.none() | st.integers(0, len(BODY)),
)


@settings(max_examples=30, deadline=None)
@given(scripts=st.lists(st.lists(ANSWERS, min_size=1, max_size=3), min_size=1, max_size=2))
def test_nothing_wrong_is_accepted_and_a_good_mirror_always_succeeds(scripts: list[list[Answer]]) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        mirrors = [stack.enter_context(serving(*script)) for script in scripts]
        file = remote(*mirrors)
        try:
            assert fetch(file, folder).read_bytes() == BODY
        except InputError:
            assert not (folder / "a.zip").exists()
        good = stack.enter_context(serving())
        assert fetch(replace(file, mirrors=(*file.mirrors, good.url)), folder).read_bytes() == BODY
