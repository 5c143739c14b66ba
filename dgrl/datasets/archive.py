"""Reading a benchmark's archive member by member; nothing is unpacked to disk."""

import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from dgrl.errors import InputError
from dgrl.images import decode
from dgrl.tables import ImageRow

# What zipfile raises for a damaged file, beside its own BadZipFile
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, OSError)


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

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            InputError: if the file is damaged, encrypted or compressed by an unknown method.
        """
        try:
            return self._zip.read(name) if self._zip else (self.path / name).read_bytes()
        except RuntimeError as error:  # encrypted; or, as NotImplementedError, an unknown method
            raise InputError(
                f"{self.path}: {name} cannot be unpacked ({error}); unpack the archive with its own tool and "
                "give the folder"
            ) from None
        except _DAMAGE as error:
            raise InputError(
                f"{self.path}: {name} cannot be read ({error}); get the archive again from its source"
            ) from None

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
        """Sorted by image_id, so that the order of the archive is of no consequence.

        Raises:
            InputError: if two files have the same image_id.
        """
        ordered = sorted(members)
        for one, other in pairwise(ordered):
            if one.image_id == other.image_id:
                raise InputError(
                    f"{self.path} has image {one.image_id} twice ({one.name}, {other.name}); keep one"
                )
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
    """Open a zip file or a folder.

    Raises:
        InputError: if it is missing, truncated, no zip file, or has two files of the same name.
    """
    if path.is_dir():
        names = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        yield Archive(path, sorted(names), None)
        return
    if not path.exists():
        raise InputError(f"{path} does not exist; put the archive there or correct the path in params.yaml")
    try:
        file = zipfile.ZipFile(path)
    except (*_DAMAGE, NotImplementedError) as error:  # the latter: a version of the format not known yet
        raise InputError(
            f"{path} is no whole zip archive ({error}); it may be truncated: get it again from its source"
        ) from None
    with file:
        yield Archive(path, _names(path, file), file)


def _names(path: Path, file: zipfile.ZipFile) -> list[str]:
    names = sorted(info.filename for info in file.infolist() if not info.is_dir())
    for one, other in pairwise(names):
        if one == other:
            raise InputError(f"{path} has two files called {one}; get the archive again from its source")
    return names
