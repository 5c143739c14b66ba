"""A folder of own images: persons that the synthetic set draws, under names as people give them."""

from collections.abc import Mapping
from pathlib import Path

import cv2

from dgrl.datasets.synthetic import SyntheticParams, images


def write_own_images(
    folder: Path,
    name: str = "{camera}/{person}_{index}.png",
    persons: int = 10,
    sizes: Mapping[str, tuple[int, int]] = {"gate": (64, 128), "yard": (64, 128)},
) -> None:
    """Write two images of each person by each camera; ``sizes`` are width and height by camera."""
    drawn = SyntheticParams(persons=persons, cameras=4, images_per_camera=2)
    cameras = dict(zip(("c1", "c2", "c3"), sizes, strict=False))
    for row in images(drawn):
        if camera := cameras.get(row.camera_id):
            pixels = cv2.resize(row.pixels(), sizes[camera], interpolation=cv2.INTER_AREA)
            role = "lr" if sizes[camera][1] < 100 else "hr"
            file = folder / name.format(
                camera=camera, person=f"p{row.person_id[2:]}", index=row.image_id[-1], role=role
            )
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
