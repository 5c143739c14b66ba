"""VIPeR: 632 persons, each seen once by each of two cameras.

Official layout: ``VIPeR/cam_a/000_45.bmp``, ``VIPeR/cam_b/000_90.bmp``: person, then view angle in degrees;
48 x 128 pixels. Source: D. Gray and H. Tao, Viewpoint Invariant Pedestrian Recognition with an Ensemble of
Localized Features, ECCV 2008. There is no official split: trials draw half of the persons at random.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from dgrl.datasets.archive import open_archive
from dgrl.errors import InputError
from dgrl.images import decode
from dgrl.tables import ImageRow

PERSONS = 632
CAMERAS = ("cam_a", "cam_b")
_NAME = re.compile(r"(?:^|/)(?P<camera>cam_[ab])/(?P<person>\d{3})_\d+\.bmp$")


def images(archive: Path) -> Iterator[ImageRow]:
    """One row per picture, sorted by image_id, with the archive's own bytes.

    Args:
        archive: the official zip file, or a folder with its content.

    Raises:
        InputError: if the archive is not VIPeR, whole and undamaged.
    """
    with open_archive(archive) as opened:
        names = _by_image_id(opened.names)
        if not names:
            raise InputError(
                f"{archive} has no file like VIPeR/cam_a/000_45.bmp; give the official VIPeR archive"
            )
        _check_complete(archive, names)
        for image_id, name in sorted(names.items()):
            person, camera = image_id.split("_", 1)
            data = opened.read(name)
            yield ImageRow.from_pixels(
                decode(data, f"{archive}: {name}"),
                name,
                data=data,
                image_id=image_id,
                person_id=person,
                camera_id=camera,
                subset="all",
                factor=1,
            )


def _by_image_id(names: list[str]) -> dict[str, str]:
    matches = ((_NAME.search(name), name) for name in names)
    return {f"{match['person']}_{match['camera']}": name for match, name in matches if match}


def _check_complete(archive: Path, names: dict[str, str]) -> None:
    persons = {image_id.split("_", 1)[0] for image_id in names}
    missing = [f"{p}_{c}" for p in sorted(persons) for c in CAMERAS if f"{p}_{c}" not in names]
    if missing or len(persons) != PERSONS:
        first = f"; first missing: person {missing[0]}" if missing else ""
        raise InputError(
            f"{archive} is not the whole of VIPeR: {len(names)} pictures of {len(persons)} persons instead "
            f"of {2 * PERSONS} of {PERSONS}{first}; get the official archive again"
        )
