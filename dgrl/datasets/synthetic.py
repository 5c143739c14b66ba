"""A procedural person re-identification benchmark that needs no download.

Every image shows one person, drawn from a small three-dimensional figure, as one of several cameras sees
them. A person is a set of attributes (build, clothes, hair, bag) that are few and mostly dark, so that many
persons nearly collide; a camera is a place, a viewpoint, a light and a lens. An image is a pure function of
(seed, person, camera, index): asking for more persons, cameras or images changes no other image.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, TypeVar

import cv2
import numpy as np
from pydantic import Field

from dgrl.config import Section
from dgrl.datasets.figure import Camera, Canvas, Cloth, Floats, Pattern, Person, Pose, draw_person
from dgrl.images import Image
from dgrl.parallel.processes import imap, usable_cores
from dgrl.random import named_generator
from dgrl.tables import ImageRow

T = TypeVar("T")
Colour = tuple[float, float, float]

OVERSAMPLING = 3  # drawn at this multiple of the size, then area-averaged: smooth edges, fine texture
PASSERS_BY = 0.15  # how often somebody else walks behind
OCCLUSIONS = 0.2  # how often something stands in front
GOLDEN = 0.618034  # multiples of it spread evenly over a circle, however many cameras there are

# Colours and how often they are worn: most clothes are dark or muted.
_TOPS = {
    (0.07, 0.07, 0.08): 27,  # black
    (0.19, 0.19, 0.21): 18,  # charcoal
    (0.09, 0.12, 0.25): 17,  # navy
    (0.45, 0.45, 0.46): 12,  # grey
    (0.82, 0.82, 0.80): 9,  # white
    (0.58, 0.49, 0.36): 5,  # beige
    (0.24, 0.27, 0.16): 4,  # olive
    (0.36, 0.09, 0.12): 4,  # burgundy
    (0.30, 0.45, 0.66): 2,  # sky
    (0.68, 0.14, 0.12): 2,  # red
}
_BOTTOMS = {
    (0.07, 0.07, 0.08): 40,  # black
    (0.14, 0.18, 0.30): 30,  # dark denim
    (0.33, 0.42, 0.56): 10,  # light denim
    (0.30, 0.30, 0.31): 12,  # grey
    (0.50, 0.42, 0.30): 6,  # khaki
    (0.74, 0.72, 0.68): 2,  # off-white
}
_LEATHERS = {(0.06, 0.06, 0.06): 56, (0.28, 0.17, 0.10): 18, (0.80, 0.80, 0.78): 22, (0.50, 0.12, 0.12): 4}
_HAIRS = {(0.05, 0.04, 0.04): 52, (0.17, 0.10, 0.07): 32, (0.55, 0.42, 0.22): 9, (0.55, 0.54, 0.53): 7}
_SKINS = {(0.78, 0.58, 0.47): 50, (0.60, 0.41, 0.29): 30, (0.30, 0.19, 0.13): 20}
_PLAIN: dict[Pattern, int] = {"plain": 1}
_PATTERNS: dict[Pattern, int] = {
    "plain": 68, "stripes": 8, "pinstripes": 5, "checks": 6, "dots": 3, "yoke": 5, "band": 5,
}  # fmt: skip


class SyntheticParams(Section):
    """What the generator draws."""

    kind: Literal["synthetic"] = "synthetic"
    persons: int = Field(100, ge=2, le=9999)  # number 1 is always the same person
    cameras: int = Field(4, ge=4, le=8)  # each sees every person
    images_per_camera: int = Field(2, ge=1, le=99)  # of every person
    width: int = Field(64, ge=16, le=512)  # pixels
    height: int = Field(128, ge=32, le=1024)  # pixels; a person is about nine tenths as tall
    seed: int = Field(0, ge=0)  # another seed, another benchmark


def images(params: SyntheticParams) -> Iterator[ImageRow]:
    """Draw the benchmark.

    Yields:
        Rows in the order of ``image_id``: ``0007_c2_01`` is the first image of person ``0007`` by camera
        ``c2``. Subset ``all``, factor 1, uint8 RGB as PNG.
    """
    cameras = [_camera(params, number) for number in range(1, params.cameras + 1)]
    persons = range(1, params.persons + 1)
    draw = partial(_images_of, cameras=cameras, params=params)
    for rows in imap(draw, persons, workers=min(usable_cores(), len(persons)), description="drawing"):
        yield from rows


def _images_of(number: int, cameras: Sequence[Camera], params: SyntheticParams) -> list[ImageRow]:
    """All images of a person, who is the same whatever process draws them."""
    person = _person(named_generator("synthetic", params.seed, "person", number))
    rows = []
    for place, camera in enumerate(cameras, 1):
        for index in range(1, params.images_per_camera + 1):
            # the name of a published draw, which never changes
            rng = named_generator("synthetic", params.seed, "picture", number, place, index)
            image_id = f"{number:04d}_c{place}_{index:02d}"
            row = ImageRow.from_pixels(
                _member(person, camera, rng, params),
                f"{image_id}.png",
                image_id=image_id,
                person_id=f"{number:04d}",
                camera_id=f"c{place}",
                subset="all",
                factor=1,
            )
            rows.append(row)
    return rows


def _member(person: Person, camera: Camera, rng: np.random.Generator, params: SyntheticParams) -> Image:
    height, width = params.height * OVERSAMPLING, params.width * OVERSAMPLING
    top, left = rng.integers(np.subtract(camera.scene.shape[:2], (height, width)))
    pixels = camera.scene[top : top + height, left : left + width] * np.float32(rng.uniform(0.85, 1.15))
    folds = 1 + 0.09 * _noise(rng, height, width, 16)
    if rng.random() < PASSERS_BY:
        draw_person(Canvas(pixels, folds, camera, _pose(rng, camera, passing=True)), _person(rng))
    canvas = Canvas(pixels, folds, camera, _pose(rng, camera))
    draw_person(canvas, person)
    if rng.random() < OCCLUSIONS:
        _draw_obstacle(canvas, rng)
    return _photograph(pixels, camera, rng, params)


# Who, where and how


def _person(rng: np.random.Generator) -> Person:
    bottom_kind = _choose(rng, {"trousers": 77, "shorts": 9, "skirt": 7, "dress": 7})
    jacket = rng.random() < 0.3 and bottom_kind != "dress"
    top = _cloth(rng, _TOPS, _PATTERNS)
    bottom = _cloth(rng, _BOTTOMS, {"plain": 96, "checks": 2, "pinstripes": 2})
    return Person(
        shoulder=rng.normal(0.112, 0.009),
        hip=rng.normal(0.088, 0.008),
        limb=rng.normal(1, 0.1),
        waist=rng.normal(0.415, 0.012),
        skin=_cloth(rng, _SKINS),
        hair=_cloth(rng, _HAIRS),
        hair_end=_choose(rng, {0.0: 60, 0.14: 14, 0.2: 14, 0.27: 12}),
        hat=_cloth(rng, _TOPS) if rng.random() < 0.06 else None,
        top=top,
        short_sleeves=not jacket and rng.random() < 0.45,
        print_side=0 if jacket or top.pattern != "plain" else _choose(rng, {0: 64, 1: 22, -1: 14}),
        print_size=rng.uniform(0.025, 0.055),
        jacket=_cloth(rng, _TOPS) if jacket else None,
        hem=_choose(rng, {0.5: 55, 0.54: 30, 0.66: 15}) if jacket else rng.normal(0.49, 0.015),
        bottom=top if bottom_kind == "dress" else bottom,
        bottom_kind=bottom_kind,
        shoes=_cloth(rng, _LEATHERS),
        bag=_cloth(rng, _TOPS),
        bag_kind=_choose(rng, {"none": 60, "backpack": 18, "handbag": 11, "shoulder": 11}),
    )


def _cloth(
    rng: np.random.Generator, colours: Mapping[Colour, int], patterns: Mapping[Pattern, int] = _PLAIN
) -> Cloth:
    colour, second = (_dyed(rng, _choose(rng, colours)) for _ in range(2))
    if abs(colour - second).mean() < 0.15:  # a pattern must show
        second = colour + np.float32(0.25 if colour.mean() < 0.5 else -0.25)
    return Cloth(colour, second, _choose(rng, patterns), rng.uniform(0.035, 0.075))


def _dyed(rng: np.random.Generator, colour: Colour) -> Floats:
    dyed: Floats = np.clip(colour + rng.normal(0, 0.02, 3), 0.03, 0.9).astype(np.float32)
    return dyed


def _choose(rng: np.random.Generator, weights: Mapping[T, int]) -> T:
    """One of the keys, as often as its weight says."""
    cumulative = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))]


def _camera(params: SyntheticParams, number: int) -> Camera:
    rng = named_generator("synthetic", params.seed, "camera", number)
    turn = 2 * np.pi * GOLDEN * number
    cast = 1 + 0.12 * np.cos(turn + 2 * np.pi / 3 * np.arange(3))
    exposure = (1.1, 0.8, 1.25, 0.95)[number % 4] * rng.uniform(0.95, 1.05)
    return Camera(
        heading=turn,
        pitch=rng.uniform(0.05, 0.35),
        shear=rng.uniform(-0.06, 0.06),
        scale=rng.uniform(0.98, 1.06),
        gain=(exposure * cast).astype(np.float32),
        gamma=rng.uniform(0.75, 1.15),
        saturation=rng.uniform(0.6, 1.1),
        blur=rng.uniform(0.3, 0.7),
        noise=rng.uniform(0.01, 0.03),
        light=rng.uniform(-1, 1),
        scene=_scene(rng, params.height * OVERSAMPLING * 5 // 4, params.width * OVERSAMPLING * 2, number),
    )


def _pose(rng: np.random.Generator, camera: Camera, passing: bool = False) -> Pose:
    around = np.pi * (rng.random() < 0.25)  # most people walk the same way past a camera
    return Pose(
        yaw=camera.heading + around + rng.normal(0, 0.4),
        stride=rng.uniform(-0.5, 0.5),
        elbows=(rng.uniform(0.1, 0.7), 2.1 if rng.random() < 0.15 else rng.uniform(0.1, 0.7)),
        lean=rng.normal(0, 0.03),
        scale=rng.uniform(0.6, 0.75) if passing else rng.normal(1, 0.03),
        foot=(rng.choice([0.0, 1.0]), 0.8) if passing else (rng.normal(0.5, 0.035), rng.normal(0.965, 0.012)),
    )


def _scene(rng: np.random.Generator, height: int, width: int, number: int) -> Floats:
    """A wall and a ground, [height, width, 3]: the same for all who pass."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
    horizon = rng.uniform(0.4, 0.65)
    wall, ground, trim = rng.uniform(0.25, 0.75, (3, 1)) + rng.normal(0, 0.035, (3, 3))
    course = np.floor(y / 0.06)
    marks = (  # bricks, panels, windows, leaves
        (y % 0.06 < 0.008) | ((x + 0.06 * (course % 2)) % 0.12 < 0.008),
        x % 0.17 < 0.015,
        (x % 0.3 < 0.16) & (abs(y - 0.2) < 0.13),
        _noise(rng, height, width, 60) > 0.3,
    )[number % 4]
    slabs = ((y - horizon) % 0.11 < 0.008) | ((x - 0.5) / (np.maximum(y - horizon, 0) + 0.3) % 0.4 < 0.02)
    scene = np.where(marks[..., None], trim, wall)
    scene = np.where((y > horizon)[..., None], np.where(slabs[..., None], ground * 0.8, ground), scene)
    grain = 1 + 0.08 * _noise(rng, height, width, 8) + 0.06 * _noise(rng, height, width, 64)
    blurred: Floats = cv2.GaussianBlur(scene * grain[..., None], (0, 0), OVERSAMPLING * 0.7)
    return blurred.astype(np.float32)


def _noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Floats:
    """Smooth noise of unit variance at its knots, ``cells`` of them down the image."""
    knots = rng.standard_normal((cells, max(2, cells * width // height)), np.float32)
    return cv2.resize(knots, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32, copy=False)


def _draw_obstacle(canvas: Canvas, rng: np.random.Generator) -> None:
    """A pole, or something low such as a bin, in front of the person."""
    height, width = canvas.folds.shape
    pole = rng.random() < 0.5
    half = width * (rng.uniform(0.03, 0.07) if pole else rng.uniform(0.15, 0.35))
    x, top = rng.uniform(0.1, 0.9) * width, 0 if pole else rng.uniform(0.62, 0.8) * height
    outline = np.array([(x - half, top), (x + half, top), (x + half, height), (x - half, height)])
    canvas.paint(outline, _cloth(rng, _TOPS))


def _photograph(pixels: Floats, camera: Camera, rng: np.random.Generator, params: SyntheticParams) -> Image:
    """What the camera makes of the light that reaches it: uint8 RGB at the size of the image."""
    seen = cv2.resize(pixels, (params.width, params.height), interpolation=cv2.INTER_AREA)
    seen = cv2.GaussianBlur(seen, (0, 0), camera.blur * rng.uniform(0.7, 1.6))
    grey = seen.mean(axis=2, keepdims=True)
    seen = np.clip(grey + (seen - grey) * camera.saturation, 0, 1) ** camera.gamma
    seen = seen * camera.gain * np.exp(rng.normal(0, 0.07, 3) + rng.normal(0, 0.15))  # weather, white balance
    seen = seen + rng.standard_normal(seen.shape, np.float32) * camera.noise
    image: Image = np.round(np.clip(seen, 0, 1) * 255).astype(np.uint8)
    return image
