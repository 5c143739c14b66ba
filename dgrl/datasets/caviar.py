"""CAVIAR4REID: 72 persons in a shopping centre, 50 of them seen by both cameras.

Official layout: ``CAVIAR4REID/PPPPNNN.jpg``: person, then number of the image; sizes differ. A camera gives
ten images of a person: 001 to 010 are of the near, sharp camera, which looks along the corridor, 011 to 020
of the far one, which looks across it and is low-resolution as it is. The other 22 persons have ten images
of one camera; those are numbered from 001 too, so their ``near`` says nothing, and the protocol drops them.

Source: D. S. Cheng et al., Custom Pictorial Structures for Re-identification, BMVC 2011, for the layout and
the counts. Neither it nor the name says which camera is which; the images do: by size (on average 101
pixels high against 59; the first ten are the larger ones of all but persons 0020 and 0050, who pass close to
the far camera) and by the places behind the persons. There is no official split: trials draw half of the
persons at random.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from dgrl.config import Section
from dgrl.datasets.archive import Member, open_archive
from dgrl.datasets.fetch import RemoteFile
from dgrl.errors import InputError
from dgrl.tables import ImageRow

PERSONS = 72
SEEN_TWICE = 50  # persons seen by both cameras
IMAGES_PER_CAMERA = 10  # of every person it sees
REMOTE = RemoteFile(
    name="CAVIAR4REID.zip",
    mirrors=(),
    page="https://www.lorisbazzani.info/caviar4reid.html",
)
_EXAMPLE = "CAVIAR4REID/0001001.jpg"
_NAME = re.compile(r"(?:^|/)(?P<person>\d{4})(?P<number>\d{3})\.jpg$")


class CaviarParams(Section):
    """Where the archive is."""

    kind: Literal["caviar"] = "caviar"
    archive: str | None = None  # zip file or folder; null: the drop folder, else a mirror


def images(archive: Path) -> Iterator[ImageRow]:
    """One row per image, sorted by image_id (``0001001``, the file's stem), with the archive's own bytes.

    Args:
        archive: the official zip file, or a folder with its content.

    Raises:
        InputError: if the archive is not CAVIAR4REID, whole and undamaged.
    """
    with open_archive(archive) as opened:
        members = opened.members(_member, _EXAMPLE)
        _check_complete(archive, members)
        yield from map(opened.row, members)


def _member(name: str) -> Member | None:
    match = _NAME.search(name)
    if match is None:
        return None
    camera = "near" if int(match["number"]) <= IMAGES_PER_CAMERA else "far"
    return Member(match["person"] + match["number"], match["person"], camera, "all", name)


def _check_complete(archive: Path, members: list[Member]) -> None:
    cameras: dict[str, Counter[str]] = defaultdict(Counter)
    for member in members:
        cameras[member.person_id][member.camera_id] += 1
    twice = sum(len(counts) == 2 for counts in cameras.values())
    if (len(cameras), twice) != (PERSONS, SEEN_TWICE):
        raise InputError(
            f"{archive} is not the whole of CAVIAR4REID: {len(cameras)} persons, {twice} of them seen by "
            f"both cameras, instead of {PERSONS} and {SEEN_TWICE}; get the official archive again"
        )
    for person, counts in cameras.items():
        for camera, count in counts.items():
            if count != IMAGES_PER_CAMERA:
                raise InputError(
                    f"{archive}: person {person} has {count} images of the {camera} camera instead of "
                    f"{IMAGES_PER_CAMERA}; get the official archive again"
                )
