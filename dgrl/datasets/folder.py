"""Anyone's own images: a folder, and a table or a pattern that says who is seen by which camera."""

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal, Self

from pydantic import field_validator, model_validator

from dgrl.config import Section
from dgrl.datasets.archive import Archive, Member, has_control, open_archive
from dgrl.datasets.cells import read_cells
from dgrl.datasets.patterns import NameMatcher, compile_pattern
from dgrl.errors import InputError
from dgrl.tables import DISTRACTOR, JUNK, QUERY, ImageRow

COLUMNS = ("path", "person_id", "camera_id", "role", "subset")
ROLES = ("hr", "lr")
SUBSETS = ("train", "test", QUERY, DISTRACTOR, JUNK)


class FolderParams(Section):
    """Where the images are, and what says whom they show; see ``images``."""

    kind: Literal["folder"] = "folder"
    root: str | None = None  # folder, or zip file
    table: str | None = None  # CSV or Parquet with the COLUMNS: path (below root), ...
    pattern: str | None = None  # regular expression for the whole path below root; groups as the columns

    @field_validator("pattern")
    @classmethod
    def _check_groups(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        if wrong := _wrong_columns(["path", *compile_pattern(pattern).groupindex], "group"):
            raise ValueError(wrong)
        return pattern

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = [source for source in (self.table, self.pattern) if source is not None]
        if len(sources) != (self.root is not None):
            raise ValueError("give root and exactly one of table and pattern, or none of the three")
        return self


def images(params: FolderParams) -> Iterator[ImageRow]:
    """One row per image, sorted by image_id, with the file's own bytes.

    An image_id is the path below root without its suffix. A camera is called as it is given; with a role
    (``hr`` or ``lr``) it becomes ``hr:<camera>`` or ``lr:<camera>``, so that LR cameras can be told from HR
    ones. Without cameras, all images of a role are by one, ``hr:all`` or ``lr:all``. Files that the table
    does not list, or the pattern does not match as a whole, are left out. A
    subset is ``train``, ``test``, ``query`` (a test image that is an official query), ``distractor`` (a
    gallery image of nobody) or ``junk`` (ignored), and ``all`` where none is given.

    Args:
        params: relative paths are relative to the working directory.

    Raises:
        InputError: naming the row or file that is wrong.
    """
    with listed(params) as (opened, members):
        yield from map(opened.row, members)


@contextmanager
def listed(params: FolderParams) -> Iterator[tuple[Archive, list[Member]]]:
    """The opened folder and its images as ``images`` has them, before any is read."""
    if params.root is None:
        raise InputError("no folder of images is given; set root and one of table and pattern")
    with open_archive(Path(params.root)) as opened:
        if params.table is not None:
            found = _from_table(opened, Path(params.table))
        else:
            found = _from_pattern(opened, params.pattern or "")
        members = opened.ordered(found)
        _check_links(opened, members)
        yield opened, members


def _from_table(opened: Archive, table: Path) -> Iterator[Member]:
    files = set(opened.names)
    first: dict[str, int] = {}  # row of each path
    rows = _read_table(table)
    if not rows:
        raise InputError(f"{table} has no rows; list the images below {opened.path} in it")
    for number, values in enumerate(rows, 1):
        where = f"{table}: row {number} below the header"
        values["path"] = _below(opened.path, values["path"], files)
        member = _member(opened, values, where)
        if member.name not in files:
            raise InputError(f"{where}: {member.name!r} is no file below {opened.path}; correct the path")
        if first.setdefault(member.name, number) != number:
            raise InputError(f"{where}: {member.name!r} is in row {first[member.name]} already; keep one")
        yield member


def _below(root: Path, path: str, files: set[str]) -> str:
    """The path below root of a file that is given by its absolute path, or as Windows writes paths."""
    if path in files:
        return path
    for other in (path.replace("\\", "/"), posixpath.normpath(path)):
        if other in files:
            return other
    absolute = Path(path)
    if absolute.is_absolute() and "\0" not in path:
        for place in (absolute, absolute.parent.resolve() / absolute.name):
            for start in (root.absolute(), root.resolve()):
                if place.is_relative_to(start):
                    return place.relative_to(start).as_posix()
    return path


def _from_pattern(opened: Archive, pattern: str) -> Iterator[Member]:
    matcher = NameMatcher(compile_pattern(pattern), f"the files below {opened.path}")
    matches = [match for name in opened.names if (match := matcher.match(name))]
    if not matches:
        held = f"such as {opened.names[0]!r}" if opened.names else "and it is empty"
        raise InputError(
            f"no file below {opened.path} matches the pattern {pattern!r}; it must match the whole path, "
            f"{held}"
        )
    for match in matches:
        values = {group: value or "" for group, value in match.groupdict().items()}
        yield _member(opened, values | {"path": match.string}, f"{opened.path}: {match.string!r}")


def _member(opened: Archive, values: dict[str, str], where: str) -> Member:
    for column in ("path", "person_id", "camera_id"):
        if not values.get(column, "all"):
            raise InputError(f"{where} has no {column}; every image needs one")
    for column in ("person_id", "camera_id"):
        if has_control(values.get(column, "")):
            raise InputError(f"{where}: {column} {values[column]!r} has a line break or the like; remove it")
    role = values.get("role")
    if role is not None and role not in ROLES:
        raise InputError(f"{where}: role {role!r} is neither hr nor lr; correct it")
    subset = values.get("subset") or "all"
    if subset not in (*SUBSETS, "all"):
        raise InputError(f"{where}: subset {subset!r} is none of {', '.join(SUBSETS)} or empty; correct it")
    path = PurePosixPath(values["path"])
    if path.is_absolute() or ".." in path.parts:
        raise InputError(
            f"{where}: {str(path)!r} leads out of {opened.path}; put the image into that folder and give "
            "its path below it"
        )
    camera = values.get("camera_id", "all")
    camera = camera if role is None else f"{role}:{camera}"
    return Member(str(path.parent / path.stem), values["person_id"], camera, subset, str(path))


def _check_links(opened: Archive, members: list[Member]) -> None:
    """A symbolic link may stand for another image of the folder, and for no other file."""
    root = opened.path.resolve()
    for member in members:
        if not (root / member.name).resolve().is_relative_to(root):
            raise InputError(
                f"{opened.path}: {member.name!r} is a link that leads out of the folder; put the image "
                "itself there"
            )


def _read_table(table: Path) -> list[dict[str, str]]:
    """The cells as text, empty where there is none; columns in lower case."""
    columns, rows = read_cells(table)
    if wrong := _wrong_columns(columns, "column"):
        raise InputError(f"{table} {wrong}")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _wrong_columns(columns: list[str], word: str) -> str:
    """What is wrong with the columns, or groups, of a table; empty if nothing is."""
    for column in ("path", "person_id"):
        if column not in columns:
            return f"has no {word} {column}, only {columns}; add it"
    if not {"camera_id", "role"} & set(columns):
        return f"has neither a {word} camera_id nor a {word} role, only {columns}; add one, or both"
    for column in columns:
        if column not in COLUMNS:
            return f"has an unknown {word} {column!r} (allowed: {', '.join(COLUMNS)}); remove it"
    return ""
