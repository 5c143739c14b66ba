"""A benchmark's archive: from one of its mirrors into a cache that projects share.

A download that breaks off goes on where it stopped, in the same call or in the next one. Nothing is taken
for the file before its size and SHA-256 are right; nothing that is right is fetched again. Where no digest
is known, only bytes of one version on one mirror are joined (If-Range, RFC 9110, section 13.1.5).

The cache holds, for a file ``a.zip``: ``a.zip`` itself; ``.a.zip.verified``, which says that it was; the lock
``.a.zip.lock``; and, until it is whole, ``a.zip.<key>.part``, whose key names the bytes that may be joined.

Not by pooch: it has one address per file, and deletes what came when a connection breaks.
"""

import fcntl
import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3

from dgrl.errors import InputError
from dgrl.files import atomic_file
from dgrl.progress import progress

ATTEMPTS = 4  # per mirror
BACKOFF = 1.0  # seconds before the second attempt; doubled before each further one
TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds of silence
CHUNK = 1 << 16  # bytes; what a broken connection loses at most

_TRY_LATER = (408, 425, 429)  # RFC 9110 and RFC 6585: the only 4xx that may change by waiting
_CONTENT_RANGE = re.compile(r"bytes (?:(?P<start>\d+)-\d+|\*)/(?P<total>\d+|\*)$")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteFile:
    """A file that others publish.

    Attributes:
        name: of the file in the cache.
        mirrors: http(s) addresses, the best first; none where the file is only given on request.
        sha256: the official digest in lower-case hexadecimal, or None where none is known.
        size: in bytes, or None where it is not known.
        page: where a person finds the file, or the form that asks for it.
        md5: the official MD5 in lower-case hexadecimal, where that is all that is known: it tells a wrong or
            damaged file, not a forged one.
    """

    name: str
    mirrors: tuple[str, ...]
    page: str
    sha256: str | None = None
    size: int | None = None
    md5: str | None = None

    def __post_init__(self) -> None:
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise InputError(
                f"{self.name}: {self.sha256!r} is no SHA-256; give its 64 lower-case hexadecimal digits"
            )


class _MirrorError(Exception):
    """A mirror did not give the file; ``again`` where it may when asked once more."""

    def __init__(self, reason: object, *, again: bool) -> None:
        super().__init__(str(reason))
        self.again = again


class _ContentError(Exception):
    """A file is whole, but not the one that was asked for."""


def fetch(file: RemoteFile, cache: Path) -> Path:
    """Bring a file into the cache unless it is there, whole and undamaged.

    Args:
        file: what to fetch and how to know it.
        cache: a folder; made if missing. Several processes and projects may share it.

    Returns:
        The file in the cache. Do not write to it.

    Raises:
        InputError: if no mirror gives the file, or the cache cannot be written.
    """
    path = cache / file.name
    try:
        if _is_verified(file, path):
            return path
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            _complete(file, path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be fetched or read ({error.strerror or error}); "
            "make room and give yourself the right to write there, or choose another cache"
        ) from None
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock, so that two processes do not write the same part."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process that is fetching %s", path)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _complete(file: RemoteFile, path: Path) -> None:
    """Verify the file in the cache, or fetch it; a damaged one stays until a good one takes its place."""
    failures = []
    if path.exists():
        try:
            _remember(path, _check(file, path, file.sha256 or _remembered_digest(path)))
            return
        except _ContentError as error:
            failures.append(f"the copy in the cache has {error}")
            logger.warning("%s has %s; fetching it again", path, error)
    for mirror in file.mirrors:
        try:
            _fetch_from(file, mirror, path)
            return
        except _MirrorError as error:
            failures.append(f"{mirror} {error}")
            logger.warning("%s %s", mirror, error)
    raise InputError(
        f"{file.name} could not be fetched ({'; '.join(failures) or 'it has no public mirror'}); "
        f"get it from {file.page} and put it at {path}"
    )


def _fetch_from(file: RemoteFile, mirror: str, path: Path) -> None:
    """Fetch the file from one mirror, asking again where that may help."""
    logger.info("fetching %s from %s", file.name, mirror)
    part = _part(file, mirror, path)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _keep(file, part, path, _receive(file, mirror, part))
            return
        except _MirrorError as error:
            if not error.again or attempt == ATTEMPTS:
                raise
            logger.info("%s %s; asking again", mirror, error)
        time.sleep(BACKOFF * 2 ** (attempt - 1))


def _receive(file: RemoteFile, mirror: str, part: Path) -> str:
    """Fetch what the part lacks, check the whole and return its digest."""
    begun = _length(part) > 0
    _append(file, mirror, part)
    try:
        return _check(file, part, file.sha256)
    except _ContentError as error:
        _discard(part)
        # What was there before may be the wrong half: this mirror gets a chance to send it all.
        raise _MirrorError(f"sent {error}", again=begun) from None


def _append(file: RemoteFile, mirror: str, part: Path) -> None:
    """Make one request, and append its answer to the part or begin the part anew."""
    length = _length(part)
    with _ask(mirror, _headers(file, part, length)) as response:
        start, total = _extent(response)
        _require_file(file, response, total)
        total = total or file.size
        if response.status_code == 416 and total == length:  # nothing is missing
            return
        if start not in (0, length) or _is_other_version(file, response, part, start):
            _discard(part)
            raise _MirrorError("cannot continue what has come so far", again=True)
        if start == 0:
            _discard(part)
            _version(part).write_text(_validator(response))
        _save(file, response, part, start, total)


@contextmanager
def _ask(mirror: str, headers: dict[str, str]) -> Iterator[requests.Response]:
    try:
        response = requests.get(mirror, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.RequestException as error:
        malformed = isinstance(error, ValueError)  # the address: it stays so
        raise _MirrorError(f"cannot be reached ({_cause(error)})", again=not malformed) from None
    with response:
        yield response


def _cause(error: BaseException) -> str:
    """What lies at the bottom of an error of requests, which wraps those of urllib3 and of the socket."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    for inner in (getattr(error, "reason", None), *error.args):
        if isinstance(inner, BaseException):
            return _cause(inner)
    return str(error).rsplit(": ", 1)[-1]


def _headers(file: RemoteFile, part: Path, length: int) -> dict[str, str]:
    """Ask for the bytes as they are stored, and only for the missing ones where they are sure to fit."""
    headers = {"Accept-Encoding": "identity"}
    version = _read(_version(part))
    if length and (file.sha256 or version):
        headers["Range"] = f"bytes={length}-"
        if not file.sha256:
            headers["If-Range"] = version
    return headers


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """The position of the answer's first byte in the file (-1 if it has none), and the file's size."""
    if response.status_code == 200:
        size = response.headers.get("Content-Length", "")
        return 0, int(size) if size.isdecimal() else None
    if response.status_code not in (206, 416):
        again = response.status_code >= 500 or response.status_code in _TRY_LATER
        raise _MirrorError(f"answers {response.status_code} {response.reason}", again=again)
    found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    start, total = found.group("start", "total") if found else (None, "*")
    return int(start or -1), None if total == "*" else int(total)


def _is_other_version(file: RemoteFile, response: requests.Response, part: Path, start: int) -> bool:
    """Whether a server without If-Range would continue a file that has changed since."""
    if file.sha256 or start == 0:
        return False
    return _validator(response) not in ("", _read(_version(part)))


def _require_file(file: RemoteFile, response: requests.Response, total: int | None) -> None:
    """Refuse, before anything is overwritten, an answer that cannot be the file."""
    if total is not None and file.size is not None and total != file.size:
        raise _MirrorError(f"offers {total} bytes instead of {file.size}", again=False)
    if response.status_code == 416:  # has no content, though often a web page that says so
        return
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _MirrorError("sends a web page in place of the file", again=False)
    if not (total or file.size or file.sha256):
        raise _MirrorError("gives no length, and no digest is known that tells if all has come", again=False)


def _save(file: RemoteFile, response: requests.Response, part: Path, start: int, total: int | None) -> None:
    """Append the body to the part; the size must then be ``total``, where that is known."""
    broken = False
    with progress("MB") as display, part.open("ab", buffering=0) as out:
        bar = display.add_task(file.name, total=total and total / 1e6)
        display.advance(bar, start / 1e6)
        try:
            # Raw: some servers label a .gz file as an encoding, and requests would unpack it.
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                out.write(chunk)
                display.advance(bar, len(chunk) / 1e6)
        except urllib3.exceptions.HTTPError:
            broken = True
    received = _length(part)
    if broken or (total is not None and received < total):
        raise _MirrorError(f"broke off after {received} of {total or 'unknown'} bytes", again=True)


def _check(file: RemoteFile, path: Path, sha256: str | None) -> str:
    """The digest of a file that has the right size and the digest ``sha256``, where they are known."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise _ContentError(f"{size} bytes instead of {file.size}")
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        content.seek(0)
        md5 = file.md5 and hashlib.file_digest(content, "md5").hexdigest()
    if md5 != file.md5:
        raise _ContentError(f"MD5 {md5} instead of {file.md5}")
    if sha256 is not None and digest != sha256:
        accept = "" if file.sha256 else f" as before (delete {_receipt(path)} to accept it)"
        raise _ContentError(f"SHA-256 {digest} instead of {sha256}{accept}")
    if file.sha256 is None and file.md5 is None:
        logger.info("%s has SHA-256 %s; no official digest is known", path, digest)
    return digest


def _keep(file: RemoteFile, part: Path, path: Path, digest: str) -> None:
    """Give a whole and checked part its name, and drop what came from other mirrors."""
    with part.open("rb") as content:
        os.fsync(content.fileno())
    _receipt(path).unlink(missing_ok=True)  # before the file that it was for
    part.replace(path)
    _remember(path, digest)
    for mirror in file.mirrors:
        _discard(_part(file, mirror, path))


def _is_verified(file: RemoteFile, path: Path) -> bool:
    """Whether an earlier call verified this very file: an archive is long to hash at every start."""
    digest = _remembered_digest(path)
    if digest is None or not path.is_file() or file.size not in (None, path.stat().st_size):
        return False
    return file.sha256 in (None, digest) and _read(_receipt(path)) == _state(path, digest)


def _remember(path: Path, digest: str) -> None:
    with atomic_file(_receipt(path)) as building:
        building.write_text(_state(path, digest))


def _remembered_digest(path: Path) -> str | None:
    return _read(_receipt(path)).split(" ")[0] or None


def _state(path: Path, digest: str) -> str:
    """What a receipt says: a file that was written to since has another size or another time."""
    status = path.stat()
    return f"{digest} {status.st_size} {status.st_mtime_ns}"


def _receipt(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified")


def _part(file: RemoteFile, mirror: str, path: Path) -> Path:
    """The beginning of a file: of one digest, whatever mirror sent it, or else of one mirror."""
    key = file.sha256 or hashlib.sha256(mirror.encode()).hexdigest()
    return path.with_name(f"{path.name}.{key[:12]}.part")


def _version(part: Path) -> Path:
    """Where the validator of a part is kept, for the next request."""
    return part.with_suffix(".version")


def _validator(response: requests.Response) -> str:
    """What names this version of the file on its server; empty where nothing does so for sure."""
    etag = response.headers.get("ETag", "")
    weak = etag.startswith("W/")  # not allowed in If-Range: equal in meaning is not equal in bytes
    return "" if weak else etag or response.headers.get("Last-Modified", "")


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version(part).unlink(missing_ok=True)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
