"""A benchmark's archive: from the first of its mirrors that has it into a cache that projects share.

The official MD5 tells a wrong or damaged file (not a forged one). What has come when a connection breaks
stays in ``<name>.part``; the same call, another mirror or the next call continues it.

Not by pooch: it has one address per file, and deletes what came when a connection breaks.
"""

import hashlib
import http.client
import logging
import os
import time
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry
from urllib3.exceptions import HTTPError

from dgrl.errors import InputError
from dgrl.files import locked
from dgrl.progress import progress

ATTEMPTS = 4  # per mirror
BACKOFF = 1.0  # seconds before a further attempt; doubled while the server cannot be reached
TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds of silence
MOST = 16 << 30  # bytes of a file; a server that sends more would fill the disk
CHUNK = 1 << 16  # bytes; what a broken connection loses at most

_TRY_LATER = (408, 425, 429, 500, 502, 503, 504)  # HTTP status that may change by waiting
_FAULTS = (requests.RequestException, HTTPError, ValueError)  # the last: a redirect to http://[::1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteFile:
    """A file that others publish.

    Attributes:
        name: of the file in the cache.
        mirrors: http(s) addresses, the best first; none where the file is only given on request.
        page: where a person finds the file, or the form that asks for it.
        md5: the official MD5 in lower-case hexadecimal; without it nothing is taken for the file.
    """

    name: str
    mirrors: tuple[str, ...]
    page: str
    md5: str | None = None


class _MirrorError(Exception):
    """A mirror did not give the file; ``again`` where it may when asked once more."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def fetch(file: RemoteFile, cache: Path) -> Path:
    """Bring a file into the cache unless it is there, whole and undamaged.

    Args:
        file: what to fetch and how to know it.
        cache: a folder; made if missing. Several processes and projects may share it.

    Returns:
        The file in the cache. Do not write to it.

    Raises:
        InputError: if no mirror gives the file, or the cache cannot be read or written.
    """
    path = cache / file.name
    try:
        if _md5(path) == file.md5:
            return path
        cache.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{file.name}.lock")
        with locked(lock, f"waiting for another process that is fetching {path}"):
            if _md5(path) != file.md5:  # else another process has fetched it meanwhile
                _download(file, path)
    except OSError as error:
        raise InputError(
            f"{error.filename or path} cannot be read or written ({error.strerror or error}); remove what is "
            "in the way, make room and give yourself the right to write there, or choose another cache"
        ) from None
    except ValueError as error:  # a path with a null character
        raise InputError(f"{str(path)!r} is no path ({error}); choose another cache") from None
    return path


def _md5(path: Path) -> str:
    """The MD5 of a file; empty if there is none."""
    if not path.exists():
        return ""
    if not path.is_file():
        raise InputError(f"{path} is no file, but that is where the archive belongs; move it away")
    with path.open("rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest()


def _open(path: Path) -> BufferedRandom:
    """Open for reading and writing, without truncating and without following a link."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "rb+")


def _download(file: RemoteFile, path: Path) -> None:
    """Ask one mirror after another; a damaged file stays until a whole one takes its place."""
    failures = [f"{path} is damaged"] if path.exists() else []
    part = path.with_name(f"{file.name}.part")
    with _session() as session, _open(part) as out:
        for mirror in file.mirrors:
            logger.info("fetching %s from %s", file.name, mirror)
            try:
                _complete(file, session, mirror, part, out)
            except _MirrorError as error:
                failures.append(f"{mirror} {error}")
            else:
                os.fsync(out)
                part.replace(path)
                return
    raise InputError(
        f"{file.name} could not be fetched ({'; '.join(failures) or 'it has no public mirror'}); "
        f"get it from {file.page} and put it at {path}"
    )


def _session() -> requests.Session:
    retry = Retry(
        ATTEMPTS - 1,
        backoff_factor=BACKOFF,
        status_forcelist=_TRY_LATER,
        raise_on_status=False,
        respect_retry_after_header=False,  # it may say a year, or 5,000 digits
    )
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=retry))
    session.mount("https://", HTTPAdapter(max_retries=retry))
    return session


def _complete(
    file: RemoteFile, session: requests.Session, mirror: str, part: Path, out: BufferedRandom
) -> None:
    """Append to the part from one mirror until its MD5 is right."""
    for left in reversed(range(ATTEMPTS)):
        begun = out.seek(0, os.SEEK_END)
        try:
            _receive(session, mirror, file.name, begun, out)
            if (md5 := _md5(part)) == file.md5:
                return
            out.truncate(0)
            # What was there before may be the wrong half: this mirror gets a chance to send it all.
            raise _MirrorError(f"sent MD5 {md5} instead of {file.md5}", again=begun > 0)
        except _MirrorError as error:
            if not error.again or not left:
                raise
        time.sleep(BACKOFF)


def _receive(session: requests.Session, mirror: str, name: str, begun: int, out: BufferedRandom) -> None:
    """Make one request and append its body to the ``begun`` bytes, or begin anew if the server does."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={begun}-"} if begun else {})
    try:
        response = session.get(mirror, headers=headers, stream=True, timeout=TIMEOUT)
    except _FAULTS as error:
        raise _MirrorError(f"gives no usable answer ({_cause(error)})") from None
    with response:
        status, sent = response.status_code, response.headers
        if status == 416:  # nothing is missing, or the part is of another file: its MD5 tells
            return
        if status not in (200, 206):
            raise _MirrorError(f"answers {status} {http.client.responses.get(status, '')}")
        if sent.get("Content-Type", "").startswith("text/html"):
            raise _MirrorError("sends a web page in place of the file")
        if status == 200 or not sent.get("Content-Range", "").startswith(f"bytes {begun}-"):
            out.truncate(out.seek(0))
            if status == 206:
                raise _MirrorError("sends other bytes than it was asked for", again=True)
        try:
            _append(response, name, out)
        except _FAULTS as error:
            raise _MirrorError(f"broke off after {out.tell()} bytes ({_cause(error)})", again=True) from None


def _append(response: requests.Response, name: str, out: BufferedRandom) -> None:
    start, rest = out.tell(), response.raw.length_remaining  # None: the server does not tell the length
    with progress("MB") as display:
        bar = display.add_task(name, total=rest and (start + rest) / 1e6, completed=start // 1_000_000)
        # Raw: some servers label a .gz file as an encoding, and requests would unpack it
        for chunk in response.raw.stream(CHUNK, decode_content=False):
            out.write(chunk)
            out.flush()
            if out.tell() > MOST:
                raise _MirrorError(f"sends more than {MOST} bytes")
            display.advance(bar, len(chunk) / 1e6)


def _cause(error: BaseException) -> str:
    """What lies at the bottom of an error of requests, which wraps those of urllib3 and of the socket."""
    for inner in (getattr(error, "reason", None), *error.args):
        if isinstance(inner, BaseException):
            return _cause(inner)
    text = str(error).rsplit(": ", 1)[-1]
    return "".join(c if c.isprintable() else " " for c in text[:200])  # some of it may be the server's
