"""Market-1501: 1,501 persons seen by six cameras, with an official split.

Official layout: ``Market-1501-v15.09.15/bounding_box_train/0002_c1s1_000451_03.jpg``: person, camera,
sequence, frame, box; 64 x 128 pixels. ``bounding_box_train`` is the training half, ``query`` and
``bounding_box_test`` the test half. In the last, person 0000 is a false detection (a distractor: it counts
against a ranking) and -1 a poor box (junk: it does not count). ``gt_bbox`` and ``gt_query`` are for other
protocols.

Source: L. Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015, and its page,
https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html, for the counts of the three folders. The page
counts 2,793 distractors, the folder holds 2,798: 19,732 less 3,819 of junk and 13,115 of 750 persons
(https://github.com/huanghoujing/person-reid-triplet-loss-baseline/issues/13,
https://github.com/vana77/Market-1501_Attribute/issues/6).
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from dgrl.config import Section
from dgrl.datasets.archive import Member, open_archive
from dgrl.datasets.fetch import RemoteFile
from dgrl.errors import InputError
from dgrl.tables import DISTRACTOR, JUNK, QUERY, ImageRow

Parts = Literal["all", "train"]

CAMERAS = ("c1", "c2", "c3", "c4", "c5", "c6")
FOLDERS = {"train": "bounding_box_train", "test": "bounding_box_test", "query": "query"}
COUNTS = {  # (folder, subset): images, persons
    ("train", "train"): (12_936, 751),
    ("test", "test"): (13_115, 750),
    ("test", DISTRACTOR): (2_798, 1),
    ("test", JUNK): (3_819, 1),
    ("query", QUERY): (3_368, 750),
}
# Nobody publishes a SHA-256; the MD5 is open-reid's (https://github.com/Cysu/open-reid, reid/datasets).
REMOTE = RemoteFile(
    name="Market-1501-v15.09.15.zip",
    mirrors=(
        "https://drive.usercontent.google.com/download?id=0B8-rUzbwVRk0c054eEozWG9COHM&export=download&confirm=t",
        "https://www.dropbox.com/s/5gypc42z6vdbbtu/Market-1501-v15.09.15.zip?dl=1",
    ),
    page="https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
    md5="65005ab7d12ec1c44de4eeafe813e68a",
)
_EXAMPLE = "Market-1501-v15.09.15/bounding_box_train/0002_c1s1_000451_03.jpg"
_NAME = re.compile(
    r"(?:^|/)(?P<folder>bounding_box_train|bounding_box_test|query)/"
    r"(?P<stem>(?P<person>-1|\d{4})_(?P<camera>c[1-6])s\d_\d{6}_\d{2})\.jpg$"
)


class Market1501Params(Section):
    """Where Market-1501 is, and how much of it."""

    kind: Literal["market1501"] = "market1501"
    archive: str | None = None  # zip file or folder; null: data/drop/
    parts: Parts = "all"  # train: the training half alone, for mlr.evaluate_on: val


def images(archive: Path, parts: Parts = "all") -> Iterator[ImageRow]:
    """One row per image, sorted by image_id, with the archive's own bytes.

    A query and a gallery image may differ in nothing but their folder, so an image_id is the folder
    (train, test or query) and the file's stem: ``train_0002_c1s1_000451_03``. The subset is ``train``,
    ``test``, ``query``, ``distractor`` or ``junk``.

    Args:
        archive: the official zip file, or a folder with its content.
        parts: ``train`` reads the training half alone, and needs no other.

    Raises:
        InputError: if the archive is not Market-1501, whole and undamaged.
    """
    folders = ["train"] if parts == "train" else list(FOLDERS)
    with open_archive(archive) as opened:
        members = opened.members(partial(_member, folders=folders), _EXAMPLE)
        _check_folders(archive, folders, members)
        _check_counts(archive, folders, members)
        yield from map(opened.row, members)


def _member(name: str, folders: Collection[str]) -> Member | None:
    match = _NAME.search(name)
    if match is None or (folder := match["folder"].removeprefix("bounding_box_")) not in folders:
        return None
    person = match["person"]
    subset = {"0000": DISTRACTOR, "-1": JUNK}.get(person, "test") if folder == "test" else folder
    return Member(f"{folder}_{match['stem']}", person, match["camera"], subset, name)


def _folder(member: Member) -> str:
    return member.image_id.split("_", 1)[0]


def _check_folders(archive: Path, folders: list[str], members: list[Member]) -> None:
    cameras = {folder: {p.camera_id for p in members if _folder(p) == folder} for folder in folders}
    missing = [FOLDERS[folder] for folder in folders if not cameras[folder]]
    if missing:
        or_half = (
            ""
            if FOLDERS["train"] in missing
            else (", or run on the training half alone with parts: train and mlr.evaluate_on: val")
        )
        raise InputError(
            f"{archive} has no image in {' and '.join(missing)}; get the whole of Market-1501{or_half}"
        )
    for folder in folders:
        for camera in sorted(set(CAMERAS) - cameras[folder]):
            raise InputError(
                f"{archive} has no image of camera {camera} in {FOLDERS[folder]}; get the archive again"
            )


def _check_counts(archive: Path, folders: list[str], members: list[Member]) -> None:
    persons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for member in members:
        persons[_folder(member), member.subset].append(member.person_id)
    for (folder, subset), (images, people) in COUNTS.items():
        seen = persons[folder, subset]
        if folder in folders and (len(seen), len(set(seen))) != (images, people):
            raise InputError(
                f"{archive} is not the whole of Market-1501: {FOLDERS[folder]} has {len(seen)} images of "
                f"{len(set(seen))} persons (subset {subset}) instead of {images} of {people}; get it again"
            )
