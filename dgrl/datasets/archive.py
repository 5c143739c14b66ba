"""Reading a benchmark's archive member by member; nothing is unpacked to disk."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dgrl.errors import InputError


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
            InputError: if the member is damaged.
        """
        try:
            return self._zip.read(name) if self._zip else (self.path / name).read_bytes()
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise InputError(
                f"{self.path}: {name} is damaged ({error}); get the archive again from its source"
            ) from None


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a zip file or a folder.

    Raises:
        InputError: if it is missing, truncated or no zip file.
    """
    if path.is_dir():
        names = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        yield Archive(path, sorted(names), None)
        return
    if not path.exists():
        raise InputError(f"{path} does not exist; put the archive there or correct the path in params.yaml")
    try:
        file = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{path} is no whole zip archive ({error}); it may be truncated: get it again from its source"
        ) from None
    with file:
        yield Archive(path, sorted(info.filename for info in file.infolist() if not info.is_dir()), file)
