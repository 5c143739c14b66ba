"""Reading a benchmark's archive member by member; nothing is unpacked to disk."""

import errno
import logging
import lzma
import shutil
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from dgrl.errors import InputError
from dgrl.images import decode
from dgrl.limits import check_size, limits
from dgrl.tables import ImageRow

logger = logging.getLogger(__name__)

# What zipfile raises for a damaged file, beside its own BadZipFile
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, OverflowError, OSError
)  # fmt: skip
_DENIED = (errno.EACCES, errno.EPERM)
_CHUNK = 4096  # bytes; from as many packed ones bzip2 makes 80 MB, whatever size the archive states


class Member(NamedTuple):
    """What the name of an image says, before the image is read."""

    image_id: str
    person_id: str
    camera_id: str
    subset: str
    name: str  # of the file in the archive


@dataclass(frozen=True)
class Archive:
    """A zip file or a folder with the same layout.

    Attributes:
        path: of the zip file or folder.
        names: the files inside, sorted, with ``/`` between folders.
    """

    path: Path
    names: list[str]
    _zip: zipfile.ZipFile | None

    def read(self, name: str, least: int = 0) -> bytes:
        """The bytes of one file.

        Args:
            name: of the file.
            least: bytes that it may have, whatever the limits are.

        Raises:
            InputError: if the file is larger, damaged, encrypted, compressed by an unknown method or may not
                be read.
        """
        if self._zip is None:
            with readable(self.path):
                file = self.path / name
                check_size(f"{self.path}: {name}", file.stat().st_size, least)
                return file.read_bytes()
        try:
            info = self._zip.getinfo(name)
            check_size(f"{self.path}: {name}", info.file_size, least)
            self._check_ratio(info)
            content = BytesIO()
            with self._zip.open(name) as packed:
                shutil.copyfileobj(packed, content, _CHUNK)
            return content.getvalue()
        except KeyError:
            raise InputError(
                f"{self.path}: {name} is there under another spelling of its name (// or ./); pack it anew"
            ) from None
        except RuntimeError as error:  # encrypted; or, as NotImplementedError, an unknown method
            raise InputError(
                f"{self.path}: {name} cannot be unpacked ({error}); unpack the archive with its own tool and "
                "give the folder"
            ) from None
        except _DAMAGE as error:
            raise InputError(
                f"{self.path}: {name} cannot be read ({error}); get the archive again from its source"
            ) from None

    def _check_ratio(self, info: zipfile.ZipInfo) -> None:
        ratio = limits().zip_ratio
        if info.file_size > ratio * info.compress_size:
            raise InputError(
                f"{self.path}: {info.filename} unpacks from {info.compress_size} to {info.file_size} bytes, "
                f"more than the limit of {ratio} to 1; leave it out, or raise limits.zip_ratio"
            )

    def members(self, parse: Callable[[str], Member | None], example: str) -> list[Member]:
        """The images of the dataset that this should be the archive of, sorted by image_id.

        Args:
            parse: from the name of a file to the image, None if it is none of the dataset's.
            example: the name of an image of the dataset, for the message.

        Raises:
            InputError: if there is no image, or two have the same image_id.
        """
        found = self.ordered(member for member in map(parse, self.names) if member)
        if not found:
            held = f"its first is {self.names[0]}" if self.names else "it is empty"
            raise InputError(
                f"{self.path} has no file like {example} ({held}); give the official archive of this dataset"
            )
        return found

    def ordered(self, members: Iterable[Member]) -> list[Member]:
        """Sorted by image_id, so that the order of the archive is of no consequence; logs what is left out.

        Raises:
            InputError: if two files have the same image_id.
        """
        ordered = sorted(members)
        for one, other in pairwise(ordered):
            if one.image_id == other.image_id:
                raise InputError(
                    f"{self.path} has image {one.image_id} twice ({one.name}, {other.name}); keep one"
                )
        if left_out := sorted(set(self.names) - {member.name for member in ordered}):
            counts = len(left_out), len(self.names)
            logger.info("%s: %d of %d files are left out, such as %s", self.path, *counts, left_out[0])
        return ordered

    def row(self, member: Member) -> ImageRow:
        """The untouched image with the file's own bytes, decoded once to be sure of it.

        Raises:
            InputError: if the file is damaged, empty or no image.
        """
        data = self.read(member.name)
        if not data:
            raise InputError(
                f"{self.path}: {member.name} is empty (0 bytes); restore the file from its source"
            )
        return ImageRow.from_pixels(
            decode(data, f"{self.path}: {member.name}"),
            member.name,
            data=data,
            image_id=member.image_id,
            person_id=member.person_id,
            camera_id=member.camera_id,
            subset=member.subset,
            factor=1,
        )


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a zip file or a folder. Hidden files (``.*``, ``__MACOSX``) are left out.

    Raises:
        InputError: if it is missing, truncated, no zip file, or may not be read; if it has two files of the
            same name, a file whose name no table can hold, or a link to a folder.
    """
    with readable(path):
        if not path.exists():
            raise InputError(f"{path} does not exist; put the archive there or correct the path")
        _refuse_pipe(path)
        raw = None if path.is_dir() else path.open("rb")
        names = [] if raw is not None else _checked_names(path, files_below(path))
    if raw is None:
        yield Archive(path, names, None)
        return
    with raw:
        try:
            file = zipfile.ZipFile(raw)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} has a file called {error.object[:100]!r}, not in UTF-8; rename it and pack it anew"
            ) from None
        except (*_DAMAGE, NotImplementedError) as error:  # the latter: a version of the format not known yet
            raise InputError(
                f"{path} is no whole zip archive ({error}); it may be truncated: get it again from its source"
            ) from None
        with file:
            names = _checked_names(path, (info.orig_filename for info in file.infolist()))
            yield Archive(path, names, file)


def require_readable(path: Path) -> None:
    """Raise an InputError that says why a file cannot be opened."""
    with readable(path):
        _refuse_pipe(path)
        path.open("rb").close()


def _refuse_pipe(path: Path) -> None:
    if path.is_fifo():  # to open it would wait for a writer
        raise InputError(f"{path} is a pipe; give a file")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say why a file or folder cannot be read, which need not be its content."""
    try:
        yield
    except OSError as error:
        advice = "give yourself the right to read it" if error.errno in _DENIED else "correct the path"
        raise InputError(
            f"{error.filename or path} cannot be read ({error.strerror or error}); {advice}"
        ) from None
    except ValueError as error:  # a path with a null character
        raise InputError(f"{str(path)!r} cannot be read ({error}); correct the path") from None


def files_below(root: Path) -> Iterator[str]:
    """The names of all files below a folder that are not hidden, in any order.

    Links to folders are not followed: they may lead in circles.

    Raises:
        InputError: if there is such a link, one to nothing, or what is neither a file nor a folder.
        OSError: if a folder cannot be read.
    """
    folders = [root]
    while folders:
        for entry in folders.pop().iterdir():
            if _is_hidden(entry.name):
                continue
            if entry.is_dir() and not entry.is_symlink():
                folders.append(entry)
            elif entry.is_file():
                yield entry.relative_to(root).as_posix()
            elif entry.is_symlink():
                raise InputError(
                    f"{str(entry)!r} is a link to a folder or to nothing; put the folder or file itself there"
                )
            else:
                raise InputError(f"{str(entry)!r} is neither a file nor a folder; remove it")


def _checked_names(path: Path, names: Iterable[str]) -> list[str]:
    """Those of files that are not hidden, sorted."""
    files = sorted(
        name for name in names if not name.endswith("/") and not any(map(_is_hidden, name.split("/")))
    )
    for name in files:
        if not name or has_control(name):
            raise InputError(f"{path} has a file called {name!r}, which no table can hold; rename it")
    for one, other in pairwise(files):
        if one == other:
            raise InputError(f"{path} has two files called {one}; get the archive again from its source")
    return files


def has_control(text: str) -> bool:
    """Whether it has line breaks or other control characters, or bytes that are not UTF-8."""
    return any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)


def _is_hidden(name: str) -> bool:
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))
