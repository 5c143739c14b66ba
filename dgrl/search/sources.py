"""The images to embed: files, folders of files, and image tables."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import regex

from dgrl.datasets.patterns import NameMatcher, compile_pattern
from dgrl.embedders.embedder import image_files
from dgrl.errors import InputError
from dgrl.images import Image, decode, read_image_file
from dgrl.tables import JUNK, read_rows

IN_TABLE = "#"  # between a table's folder and an image_id
GROUPS = ("person_id", "camera_id")


@dataclass(frozen=True, slots=True)
class Source:
    """An image, still encoded, and what its name or its table says.

    Args:
        image_path: the file's absolute path, or ``<folder of the table>#<image_id>``.
        person_id: None if not known.
        camera_id: likewise.
        data: the encoded image.
    """

    image_path: str
    person_id: str | None
    camera_id: str | None
    data: bytes

    @property
    def sha256(self) -> str:
        """Of the encoded image."""
        return sha256(self.data).hexdigest()

    def pixels(self) -> Image:
        """Decode the image."""
        return decode(self.data, self.image_path)


def sources(paths: Iterable[Path], pattern: str | None = None) -> Iterator[Source]:
    """The images of files and folders, one in memory at a time.

    Args:
        paths: image files; folders of such, searched below too; image tables (``dgrl.tables``).
        pattern: a regular expression for a file's whole path below its folder (a single file's name), with
            groups ``person_id`` and ``camera_id``, or one of them. A file that it does not match has neither.

    Raises:
        InputError: if a path does not exist, or holds no image, or the pattern is none.
    """
    matcher = NameMatcher(_compile(pattern), "the names of these files") if pattern else None
    for path in paths:
        if is_table(path):
            for row in read_rows(path):
                if row.subset != JUNK:
                    name = f"{path.resolve()}{IN_TABLE}{row.image_id}"
                    yield Source(name, row.person_id, row.camera_id, row.data)
            continue
        root = path if path.is_dir() else path.parent
        for file in image_files(path) if path.is_dir() else [path]:
            _check_name(file)
            name = file.relative_to(root).as_posix()
            person_id, camera_id = _ids(matcher, name)
            # A link keeps its own name: what it leads to may be in the folder too, or in none
            yield Source(str(root.resolve() / name), person_id, camera_id, read_image_file(file))


def is_table(path: Path) -> bool:
    """Whether a path is that of an image table."""
    return path.is_dir() and any(path.glob("part-*.parquet"))


def read_images(image_paths: Iterable[str]) -> dict[str, bytes]:
    """The encoded images of ``Source.image_path``; those that are gone are left out."""
    found, wanted = {}, defaultdict(set)
    for image_path in image_paths:
        folder, separator, image_id = image_path.rpartition(IN_TABLE)
        if Path(image_path).is_file():
            found[image_path] = Path(image_path).read_bytes()
        elif separator and is_table(Path(folder)):
            wanted[folder].add(image_id)
    for folder, ids in wanted.items():
        rows = read_rows(Path(folder))
        found |= {f"{folder}{IN_TABLE}{row.image_id}": row.data for row in rows if row.image_id in ids}
    return found


def _check_name(file: Path) -> None:
    try:
        str(file).encode()
    except UnicodeEncodeError:
        raise InputError(f"the name {str(file)!a} is no UTF-8 text; rename the file") from None


def _compile(pattern: str) -> regex.Pattern[str]:
    try:
        expression = compile_pattern(pattern)
    except ValueError as error:
        raise InputError(f"the pattern {pattern!r} {error}; correct it") from None
    if not set(GROUPS) & set(expression.groupindex):
        raise InputError(f"the pattern {pattern!r} has no group (?P<person_id>...) or (?P<camera_id>...)")
    return expression


def _ids(matcher: NameMatcher | None, name: str) -> tuple[str | None, str | None]:
    match = matcher.match(name) if matcher else None
    person_id, camera_id = (match.groupdict().get(group) if match else None for group in GROUPS)
    return person_id, camera_id
