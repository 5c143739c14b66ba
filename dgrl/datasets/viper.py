"""VIPeR: 632 persons, each seen once by each of two cameras.

Official layout: ``VIPeR/cam_a/000_45.bmp``, ``VIPeR/cam_b/000_90.bmp``: person, then view angle in degrees;
48 x 128 pixels. Source: D. Gray and H. Tao, Viewpoint Invariant Pedestrian Recognition with an Ensemble of
Localized Features, ECCV 2008. There is no official split: trials draw half of the persons at random.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from dgrl.config import Section
from dgrl.datasets.archive import Member, open_archive
from dgrl.datasets.fetch import RemoteFile
from dgrl.errors import InputError
from dgrl.tables import ImageRow

PERSONS = 632
CAMERAS = ("cam_a", "cam_b")
# Nobody publishes a SHA-256; the MD5 is open-reid's (https://github.com/Cysu/open-reid, reid/datasets).
REMOTE = RemoteFile(
    name="VIPeR.v1.0.zip",
    mirrors=(
        "https://users.soe.ucsc.edu/~manduchi/VIPeR.v1.0.zip",
        "http://users.soe.ucsc.edu/~manduchi/VIPeR.v1.0.zip",
    ),
    page="https://vision.soe.ucsc.edu/node/178",
    md5="1c2d9fc1cc800332567a0da25a1ce68c",
)
_EXAMPLE = "VIPeR/cam_a/000_45.bmp"
_NAME = re.compile(r"(?:^|/)(?P<camera>cam_[ab])/(?P<person>\d{3})_\d+\.bmp$")


class ViperParams(Section):
    """Where the archive is."""

    kind: Literal["viper"] = "viper"
    archive: str | None = None  # zip file or folder; null: the drop folder, else a mirror


def images(archive: Path) -> Iterator[ImageRow]:
    """One row per image, sorted by image_id (``000_cam_a``), with the archive's own bytes.

    Args:
        archive: the official zip file, or a folder with its content.

    Raises:
        InputError: if the archive is not VIPeR, whole and undamaged.
    """
    with open_archive(archive) as opened:
        members = opened.members(_member, _EXAMPLE)
        _check_complete(archive, members)
        yield from map(opened.row, members)


def _member(name: str) -> Member | None:
    match = _NAME.search(name)
    if match is None:
        return None
    person, camera = match["person"], match["camera"]
    return Member(f"{person}_{camera}", person, camera, "all", name)


def _check_complete(archive: Path, members: list[Member]) -> None:
    seen = {camera: {p.person_id for p in members if p.camera_id == camera} for camera in CAMERAS}
    persons = set().union(*seen.values())
    missing = sorted((person, camera) for camera in CAMERAS for person in persons - seen[camera])
    for camera in CAMERAS:
        if not seen[camera]:
            raise InputError(f"{archive} has no image in {camera}/; get the official archive again")
    if missing or len(persons) != PERSONS:
        first = "; first missing: person {} in {}/".format(*missing[0]) if missing else ""
        raise InputError(
            f"{archive} is not the whole of VIPeR: {len(members)} images of {len(persons)} persons "
            f"instead of {2 * PERSONS} of {PERSONS}{first}; get the official archive again"
        )
