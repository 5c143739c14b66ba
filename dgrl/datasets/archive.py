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


class Picture(NamedTuple):
    """What the name of a picture says, before the picture is read."""

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

    def pictures(self, parse: Callable[[str], Picture | None], example: str) -> list[Picture]:
        """The pictures of the dataset that this should be the archive of, sorted by image_id.

        Args:
            parse: from the name of a file to the picture, None if it is none of the dataset's.
            example: the name of a picture of the dataset, for the message.

        Raises:
            InputError: if there is no picture, or two have the same image_id.
        """
        found = self.ordered(picture for picture in map(parse, self.names) if picture)
        if not found:
            held = f"its first is {self.names[0]}" if self.names else "it is empty"
            raise InputError(
                f"{self.path} has no file like {example} ({held}); give the official archive of this dataset"
            )
        return found

    def ordered(self, pictures: Iterable[Picture]) -> list[Picture]:
        """Sorted by image_id, so that the order of the archive is of no consequence.

        Raises:
            InputError: if two files have the same image_id.
        """
        ordered = sorted(pictures)
        for one, other in pairwise(ordered):
            if one.image_id == other.image_id:
                raise InputError(
                    f"{self.path} has picture {one.image_id} twice ({one.name}, {other.name}); keep one"
                )
        return ordered

    def row(self, picture: Picture) -> ImageRow:
        """The untouched picture with the file's own bytes, decoded once to be sure of it.

        Raises:
            InputError: if the file is damaged, empty or no picture.
        """
        data = self.read(picture.name)
        if not data:
            raise InputError(
                f"{self.path}: {picture.name} is empty (0 bytes); restore the file from its source"
            )
        return ImageRow.from_pixels(
            decode(data, f"{self.path}: {picture.name}"),
            picture.name,
            data=data,
            image_id=picture.image_id,
            person_id=picture.person_id,
            camera_id=picture.camera_id,
            subset=picture.subset,
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
