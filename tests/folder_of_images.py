"""A folder of own images, with the tables and patterns that say whom they show."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from dgrl.datasets.folder import FolderParams, images
from dgrl.errors import InputError

PATTERN = r"(?P<camera_id>[^/]+)/(?P<person_id>[^_]+)_\d+\.png"
FILES = ["door/ann_1.png", "door/bob_1.png", "yard/ann_1.png", "yard/ann_2.png", "yard/bob_1.png"]
HEADER = "path,person_id,camera_id"
ROWS = [f"{file},{file.split('/')[1][:3]},{file.split('/')[0]}" for file in FILES]


def image(value: int) -> bytes:
    noise = np.random.default_rng(value).integers(0, 256, (12, 6, 3), np.uint8)
    return cv2.imencode(".png", noise)[1].tobytes()


def make_root(folder: Path) -> Path:
    """Five images of two persons by two cameras, and a file that is none."""
    for value, name in enumerate(FILES):
        file = folder / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image(value))
    (folder / "root/notes.txt").write_text("not an image")
    return folder / "root"


def table(root: Path, lines: list[str], header: str = HEADER) -> FolderParams:
    path = root.parent / "people.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return FolderParams(root=str(root), table=str(path))


def pattern(root: Path, expression: str = PATTERN) -> FolderParams:
    return FolderParams(root=str(root), pattern=expression)


def error_of(params: FolderParams) -> str:
    with pytest.raises(InputError) as caught:
        list(images(params))
    assert "\n" not in str(caught.value)
    return str(caught.value)
