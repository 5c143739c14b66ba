"""Fetching against servers on the loopback that do everything a bad mirror does."""

import hashlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgrl.datasets import fetch as module
from dgrl.datasets.fetch import RemoteFile, fetch
from dgrl.errors import InputError

CHUNK = 1024
BODY = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(256))  # 8 KiB without a period
OTHER = BODY[::-1]
HALF = len(BODY) // 2
PAGE = "https://example.org/form"


@dataclass
class Answer:
    """What a mirror does with one request; as it is, what a good server does."""

    body: bytes = BODY
    status: int | None = None  # instead of 200 or 206, without a body
    ranges: bool = True  # obeys Range
    if_range: bool = True  # obeys If-Range
    etag: str | None = None
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
        self.close_connection = True
        answer = self.mirror.answer(self.headers.get("Range"), self.headers.get("If-Range"))
        if answer.status:
            self.send_error(answer.status)
            return
        start = self.start(answer) + answer.shift
        if start >= len(answer.body) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(answer.body)}")
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_body(answer, start)

    def start(self, answer: Answer) -> int:
        wanted, version = self.headers.get("Range"), self.headers.get("If-Range")
        changed = answer.if_range and version is not None and version != answer.etag
        return 0 if wanted is None or not answer.ranges or changed else int(wanted[len("bytes=") : -1])

    def send_body(self, answer: Answer, start: int) -> None:
        total = len(answer.body)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if answer.etag:
            self.send_header("ETag", answer.etag)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif answer.length:
            self.send_header("Content-Length", str(total - start))
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        rest = answer.body[start:]
        sent = rest[: answer.cut]
        self.wfile.write(b"%x\r\n%b\r\n" % (len(sent), sent) if answer.chunked else sent)
        if answer.chunked and answer.cut is None:
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()
        if answer.stall:
            answer.stall.wait(5)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client may hang up."""


class Mirror:
    """A server that gives its answers one after another, and the last one for ever."""

    def __init__(self, port: int, answers: tuple[Answer, ...]) -> None:
        self.url = f"http://127.0.0.1:{port}/a.zip"
        self.answers = list(answers) or [Answer()]
        self.ranges: list[str | None] = []  # of every request, in order
        self.versions: list[str | None] = []  # its If-Range

    def answer(self, wanted: str | None, version: str | None) -> Answer:
        self.ranges.append(wanted)
        self.versions.append(version)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def serving(*answers: Answer) -> Iterator[Mirror]:
    handler = type("Bound", (Handler,), {})
    with Server(("127.0.0.1", 0), handler) as server:
        mirror = Mirror(server.server_address[1], answers)
        handler.mirror = mirror  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield mirror
        finally:
            server.shutdown()
            thread.join()


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


def remote(*mirrors: Mirror | str, sha256: str | None = hashlib.sha256(BODY).hexdigest()) -> RemoteFile:
    urls = tuple(mirror if isinstance(mirror, str) else mirror.url for mirror in mirrors)
    return RemoteFile("a.zip", urls, sha256, None, PAGE)


def part_of(file: RemoteFile, cache: Path) -> Path:
    key = file.sha256 or hashlib.sha256(file.mirrors[0].encode()).hexdigest()
    return cache / f"a.zip.{key[:12]}.part"


def closed_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/a.zip"


def visible(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))


# One mirror


def test_a_file_is_fetched_whole_and_in_silence(
    serve: Serve, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "new/cache"
    path = fetch(remote(serve()), cache)
    assert path == cache / "a.zip"
    assert path.read_bytes() == BODY
    assert visible(cache) == ["a.zip"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_breaks_off_is_continued(serve: Serve, tmp_path: Path, chunked: bool) -> None:
    mirror = serve(Answer(cut=3 * CHUNK, chunked=chunked), Answer(cut=2 * CHUNK), Answer())
    assert fetch(remote(mirror), tmp_path).read_bytes() == BODY
    assert mirror.ranges == [None, f"bytes={3 * CHUNK}-", f"bytes={5 * CHUNK}-"]


def test_server_errors_are_waited_out(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(module, "BACKOFF", 1.0)
    monkeypatch.setattr(module.time, "sleep", waits.append)
    mirror = serve(Answer(status=500), Answer(status=503), Answer(status=429), Answer())
    assert fetch(remote(mirror), tmp_path).read_bytes() == BODY
    assert waits == [1, 2, 4]


def test_a_missing_file_is_not_asked_for_again(serve: Serve, tmp_path: Path) -> None:
    gone, good = serve(Answer(status=404)), serve()
    assert fetch(remote(gone, good), tmp_path).read_bytes() == BODY
    assert len(gone.ranges) == 1


def test_an_ignored_range_begins_the_file_anew(serve: Serve, tmp_path: Path) -> None:
    mirror = serve(Answer(cut=HALF), Answer(ranges=False))
    assert fetch(remote(mirror), tmp_path).read_bytes() == BODY
    assert mirror.ranges == [None, f"bytes={HALF}-"]


@pytest.mark.parametrize("sha256", [None, hashlib.sha256(BODY).hexdigest()])
def test_a_range_other_than_the_one_asked_for_is_not_appended(
    serve: Serve, tmp_path: Path, sha256: str | None
) -> None:
    good = Answer(etag='"1"')
    mirror = serve(replace(good, cut=HALF), replace(good, shift=CHUNK), good)
    assert fetch(remote(mirror, sha256=sha256), tmp_path).read_bytes() == BODY


def test_a_part_that_is_whole_only_gets_its_name(serve: Serve, tmp_path: Path) -> None:
    mirror = serve()
    part_of(remote(mirror), tmp_path).write_bytes(BODY)
    assert fetch(remote(mirror), tmp_path).read_bytes() == BODY
    assert mirror.ranges == [f"bytes={len(BODY)}-"]
    assert visible(tmp_path) == ["a.zip"]


def test_a_part_longer_than_the_file_begins_anew(serve: Serve, tmp_path: Path) -> None:
    mirror = serve()
    part_of(remote(mirror), tmp_path).write_bytes(BODY + b"more")
    assert fetch(remote(mirror), tmp_path).read_bytes() == BODY
    assert mirror.ranges == [f"bytes={len(BODY) + 4}-", None]


def test_a_wrong_part_does_not_spoil_the_only_mirror(serve: Serve, tmp_path: Path) -> None:
    mirror = serve()
    part_of(remote(mirror), tmp_path).write_bytes(OTHER[:HALF])
    assert fetch(remote(mirror), tmp_path).read_bytes() == BODY
    assert mirror.ranges == [f"bytes={HALF}-", None]


def test_a_body_is_kept_as_it_is_stored(serve: Serve, tmp_path: Path) -> None:
    mirror = serve(Answer(headers=(("Content-Encoding", "gzip"),)))
    assert fetch(remote(mirror), tmp_path).read_bytes() == BODY


# Several mirrors


def test_a_wrong_digest_leads_to_the_next_mirror(serve: Serve, tmp_path: Path) -> None:
    wrong, good = serve(Answer(body=OTHER)), serve()
    assert fetch(remote(wrong, good), tmp_path).read_bytes() == BODY
    assert wrong.ranges == [None]
    assert good.ranges == [None]  # nothing of the wrong file is continued
    assert visible(tmp_path) == ["a.zip"]


def test_a_wrong_md5_leads_to_the_next_mirror(serve: Serve, tmp_path: Path) -> None:
    bad, good = serve(Answer(body=BODY[::-1])), serve()
    file = replace(remote(bad, good, sha256=None), md5=hashlib.md5(BODY).hexdigest())
    assert fetch(file, tmp_path).read_bytes() == BODY
    assert bad.ranges == good.ranges == [None]
    with pytest.raises(InputError, match=r"MD5 .* instead of 0000"):
        fetch(replace(file, name="b.zip", md5="0" * 32), tmp_path)


def test_a_dead_mirror_leads_to_the_next(serve: Serve, tmp_path: Path) -> None:
    assert fetch(remote(closed_port(), serve()), tmp_path).read_bytes() == BODY


def test_a_silent_mirror_is_left_and_its_part_continued(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", (1.0, 0.1))
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    release = threading.Event()
    slow, good = serve(Answer(cut=CHUNK, stall=release)), serve()
    try:
        assert fetch(remote(slow, good), tmp_path).read_bytes() == BODY
    finally:
        release.set()
    assert slow.ranges == [None, f"bytes={CHUNK}-"]
    assert good.ranges == [f"bytes={2 * CHUNK}-"]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=b"<p>for sale</p>", ranges=False, headers=(("Content-Type", "text/html"),)),
        Answer(body=b"short", ranges=False),
        Answer(body=b"short"),  # answers 416
        Answer(body=OTHER + b"!", shift=1),
        Answer(status=403),
    ],
)
def test_what_cannot_be_the_file_does_not_cost_the_part(serve: Serve, tmp_path: Path, answer: Answer) -> None:
    bad, good = serve(answer), serve()
    file = replace(remote(bad, good), size=len(BODY))
    part_of(file, tmp_path).write_bytes(BODY[:HALF])
    assert fetch(file, tmp_path).read_bytes() == BODY
    assert good.ranges == [f"bytes={HALF}-"]


def test_the_message_names_every_mirror_and_what_to_do(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    dead, gone, cut, wrong = (
        closed_port(),
        serve(Answer(status=404)),
        serve(Answer(cut=0)),
        serve(Answer(OTHER)),
    )
    with pytest.raises(InputError) as raised:
        fetch(remote(dead, "htp://x", gone, cut, wrong), tmp_path)
    message = str(raised.value)
    assert "\n" not in message
    for expected in (
        f"{dead} cannot be reached ([Errno 111] Connection refused)",
        "htp://x cannot be reached (No connection adapters were found for 'htp://x')",
        f"{gone.url} answers 404 Not Found",
        f"{cut.url} broke off after 0 of {len(BODY)} bytes",
        f"{wrong.url} sent SHA-256 {hashlib.sha256(OTHER).hexdigest()} instead of",
        f"get it from {PAGE} and put it at {tmp_path / 'a.zip'}",
    ):
        assert expected in message
    assert not (tmp_path / "a.zip").exists()


# The cache


def test_a_verified_file_is_neither_fetched_nor_hashed_again(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = serve()
    path = fetch(remote(mirror), tmp_path)
    hashed: list[object] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(module.hashlib, "file_digest", lambda *a: hashed.append(a) or digest(*a))
    assert fetch(remote(mirror), tmp_path) == path
    assert hashed == []
    os.utime(path, (0, 0))  # written to since, for all one knows
    assert fetch(remote(mirror), tmp_path) == path
    assert fetch(remote(mirror), tmp_path) == path
    assert len(hashed) == 1
    assert len(mirror.ranges) == 1


def test_a_file_put_there_by_hand_needs_no_mirror(tmp_path: Path) -> None:
    file = remote()
    with pytest.raises(InputError, match=f"no public mirror.*{PAGE}"):
        fetch(file, tmp_path)
    (tmp_path / "a.zip").write_bytes(BODY)
    assert fetch(file, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("damage", [BODY[:-1], BODY[:-1] + b"!", b""])
def test_a_damaged_file_is_replaced(serve: Serve, tmp_path: Path, damage: bytes) -> None:
    mirror = serve()
    path = fetch(remote(mirror), tmp_path)
    path.write_bytes(damage)
    os.utime(path, (0, 0))
    assert fetch(remote(mirror), tmp_path).read_bytes() == BODY
    assert len(mirror.ranges) == 2


def test_a_damaged_file_that_cannot_be_replaced_is_named(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(OTHER)
    with pytest.raises(InputError, match="the copy in the cache has SHA-256"):
        fetch(remote(serve(Answer(status=404))), tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == OTHER


def test_a_new_digest_rejects_the_old_file(serve: Serve, tmp_path: Path) -> None:
    mirror = serve(Answer(), Answer(OTHER))
    fetch(remote(mirror), tmp_path)
    newer = remote(mirror, sha256=hashlib.sha256(OTHER).hexdigest())
    assert fetch(newer, tmp_path).read_bytes() == OTHER


def test_a_mistyped_digest_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(InputError, match="64 lower-case"):
        remote(sha256="ABC")


def test_a_cache_that_cannot_be_written_is_named(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="another cache"):
        fetch(remote(serve()), tmp_path / "file")


# Without an official digest


def test_without_a_digest_the_size_is_checked_and_the_digest_told(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    wrong, good = serve(Answer(BODY + b"!")), serve()
    file = replace(remote(wrong, good, sha256=None), size=len(BODY))
    assert fetch(file, tmp_path).read_bytes() == BODY
    assert f"offers {len(BODY) + 1} bytes instead of {len(BODY)}" in caplog.text
    assert hashlib.sha256(BODY).hexdigest() in caplog.text


@pytest.mark.parametrize("if_range", [True, False])
def test_without_a_digest_two_versions_are_never_joined(serve: Serve, tmp_path: Path, if_range: bool) -> None:
    changed = Answer(OTHER, etag='"2"', if_range=if_range)
    mirror = serve(Answer(cut=HALF, etag='"1"'), changed)
    assert fetch(remote(mirror, sha256=None), tmp_path).read_bytes() == OTHER
    assert mirror.versions[:2] == [None, '"1"']


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_without_a_digest_or_a_strong_validator_nothing_is_continued(
    serve: Serve, tmp_path: Path, etag: str | None
) -> None:
    mirror = serve(Answer(cut=HALF, etag=etag), Answer(etag=etag))
    assert fetch(remote(mirror, sha256=None), tmp_path).read_bytes() == BODY
    assert mirror.ranges == [None, None]


def test_without_a_digest_two_mirrors_are_never_joined(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    cut, other = serve(Answer(cut=HALF, etag='"1"')), serve(Answer(OTHER, etag='"1"'))
    assert fetch(remote(cut, other, sha256=None), tmp_path).read_bytes() == OTHER
    assert other.ranges == [None]
    assert visible(tmp_path) == ["a.zip"]


def test_without_a_digest_a_body_of_unknown_length_is_refused(serve: Serve, tmp_path: Path) -> None:
    file = remote(serve(Answer(length=False, cut=HALF)), sha256=None)
    with pytest.raises(InputError, match="gives no length"):
        fetch(file, tmp_path)
    sized = replace(remote(serve(Answer(length=False)), sha256=None), size=len(BODY))
    assert fetch(sized, tmp_path).read_bytes() == BODY


def test_without_a_digest_a_file_that_changes_in_the_cache_is_noticed(serve: Serve, tmp_path: Path) -> None:
    file = remote(serve(), sha256=None)
    path = fetch(file, tmp_path)
    path.write_bytes(OTHER)
    os.utime(path, (0, 0))
    with pytest.raises(InputError, match=r"delete .*\.a\.zip\.verified to accept it"):
        fetch(replace(file, mirrors=()), tmp_path)
    (tmp_path / ".a.zip.verified").unlink()
    assert fetch(replace(file, mirrors=()), tmp_path).read_bytes() == OTHER


# Killed, and at once


def test_a_killed_process_is_continued_where_it_was(serve: Serve, tmp_path: Path) -> None:
    release = threading.Event()
    mirror = serve(Answer(cut=3 * CHUNK, stall=release), Answer())
    file = remote(mirror)
    code = (
        "from pathlib import Path; from dgrl.datasets import fetch as module; "
        f"module.CHUNK = {CHUNK}; module.fetch(module.{file!r}, Path({str(tmp_path)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1]) as process:
        while process.poll() is None and module._length(part_of(file, tmp_path)) < 3 * CHUNK:
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


# Whatever happens

ANSWERS = st.builds(
    Answer,
    body=st.sampled_from([BODY, OTHER, BODY[:-1], BODY + b"!"]),
    status=st.sampled_from([None, None, None, 404, 500]),
    ranges=st.booleans(),
    etag=st.sampled_from([None, '"1"']),
    length=st.booleans(),
    chunked=st.booleans(),
    cut=st.none() | st.integers(0, len(BODY)),
)


@settings(max_examples=30, deadline=None)
@given(
    scripts=st.lists(st.lists(ANSWERS, min_size=1, max_size=3), min_size=1, max_size=2), known=st.booleans()
)
def test_nothing_wrong_is_accepted_and_a_good_mirror_always_succeeds(
    scripts: list[list[Answer]], known: bool
) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        mirrors = [stack.enter_context(serving(*script)) for script in scripts]
        file = replace(remote(*mirrors), size=len(BODY) if known else None)
        try:
            assert fetch(file, folder).read_bytes() == BODY
        except InputError:
            assert not (folder / "a.zip").exists()
        good = stack.enter_context(serving())
        assert fetch(replace(file, mirrors=(*file.mirrors, good.url)), folder).read_bytes() == BODY
