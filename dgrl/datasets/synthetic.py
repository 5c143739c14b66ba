"""A procedural person re-identification benchmark that needs no download.

Every image shows one person, drawn from a small three-dimensional figure, as one of several cameras sees
them. A person is a set of attributes (build, clothes, hair, bag) that are few and mostly dark, so that many
persons nearly collide; a camera is a place, a viewpoint, a light and a lens. An image is a pure function of
(seed, person, camera, index): asking for more persons, cameras or images changes no other image.

Body coordinates: x to the person's left, y down from the crown (0) to the soles (1), z forward; the unit is
the person's height. Colours are RGB in [0, 1] under neutral light, until a camera takes the image.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from dgrl.config import Section
from dgrl.images import Image
from dgrl.parallel.processes import imap, usable_cores
from dgrl.random import named_generator
from dgrl.tables import ImageRow

Floats = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]  # [N, 2] pixels or [N, 3] body coordinates
T = TypeVar("T")
Colour = tuple[float, float, float]
Sections = list[tuple[float, float, float]]
Joint = tuple[float, float, float]
Pattern = Literal["plain", "stripes", "pinstripes", "checks", "dots", "yoke", "band"]

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
_ANGLES = np.linspace(0, 2 * np.pi, 16, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
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


@dataclass(frozen=True, slots=True)
class Cloth:
    """What a surface looks like: a colour, and a pattern in a second one."""

    colour: Floats  # [3]
    second: Floats  # [3]
    pattern: Pattern = "plain"
    period: float = 0.05  # of the pattern, in body heights


@dataclass(frozen=True, slots=True)
class Person:
    """Everything that stays the same in all images of a person."""

    shoulder: float  # half widths, in body heights
    hip: float
    limb: float  # thickness, 1 = average
    waist: float  # height of the waist line: short legs or long ones
    skin: Cloth
    hair: Cloth
    hair_end: float  # how far down the hair hangs
    hat: Cloth | None
    top: Cloth
    short_sleeves: bool
    print_side: int  # the shirt's print: 1 on the chest, -1 on the back, 0 none
    print_size: float
    jacket: Cloth | None  # worn open over the top
    hem: float  # where the top, jacket or coat ends
    bottom: Cloth
    bottom_kind: str  # trousers, shorts, skirt or dress
    shoes: Cloth
    bag: Cloth
    bag_kind: str  # none, backpack, handbag or shoulder


@dataclass(frozen=True, slots=True)
class Camera:
    """Where a camera stands, what it sees behind the person, and how it renders colours."""

    heading: float  # radians; 0 sees people from the front
    pitch: float  # radians, looking down
    shear: float
    scale: float
    gain: Floats  # [3], exposure and colour cast
    gamma: float
    saturation: float
    blur: float  # pixels
    noise: float
    light: float  # where the light comes from, -1 left to 1 right
    scene: Floats  # [H, W, 3] at drawing size, wider and taller than an image


@dataclass(frozen=True, slots=True)
class Pose:
    """What changes from image to image."""

    yaw: float  # radians; 0 faces the camera
    stride: float  # thigh angle, radians
    elbows: tuple[float, float]  # bend, radians
    lean: float
    scale: float
    foot: tuple[float, float]  # where the figure stands, in image widths and heights


class Canvas:
    """An image under construction, and the projection of body coordinates onto it."""

    def __init__(self, pixels: Floats, folds: Floats, camera: Camera, pose: Pose) -> None:
        """Stand a figure in ``pose`` before ``camera``; ``folds`` is the brightness of cloth, [H, W]."""
        self.pixels = pixels
        self.folds = folds
        self.camera = camera
        self.pose = pose
        self.cos, self.sin = float(np.cos(pose.yaw)), float(np.sin(pose.yaw))
        height, width = folds.shape
        self.unit = height * 0.93 * camera.scale * pose.scale  # pixels per body height
        self.foot = np.array([pose.foot[0] * width, pose.foot[1] * height])

    def project(self, points: Points) -> Points:
        """Body coordinates [N, 3] to pixels [N, 2]: turn by yaw, look down by pitch, lean and shear."""
        x, y, z = points.T
        rise = y - 1
        nearness = z * self.cos - x * self.sin
        right = (x * self.cos + z * self.sin) * (1 - self.camera.pitch * (rise + 0.5))  # the head is nearer
        right = right - (self.pose.lean + self.camera.shear) * rise
        down = rise * np.cos(self.camera.pitch) + nearness * np.sin(self.camera.pitch)
        pixels: Points = np.stack([right, down], axis=1) * self.unit + self.foot
        return pixels

    def tube(self, sections: Sections, cloth: Cloth, x: float = 0, z: float = 0) -> None:
        """Paint a stack of ellipses (y, half width, half depth) around the vertical axis at (x, z)."""
        y, wide, deep = np.array(sections).T
        axis = self.project(np.stack([0 * y + x, y, 0 * y + z], axis=1))
        reach = np.hypot(wide * self.cos, deep * self.sin)[:, None] * [[self.unit, 0]]
        self.paint(np.concatenate([axis - reach, (axis + reach)[::-1]]), cloth)

    def limb(self, start: Joint, end: Joint, radii: tuple[float, float], cloth: Cloth) -> None:
        """Paint the hull of two balls, at ``start`` and ``end`` (x, y, z)."""
        circle = _CIRCLE * self.unit
        first, last = self.project(np.array([start, end]))
        outline = np.concatenate([first + circle * radii[0], last + circle * radii[1]])
        self.paint(cv2.convexHull(outline.astype(np.float32))[:, 0].astype(np.float64), cloth)

    def patch(self, corners: list[tuple[float, float]], z: float, cloth: Cloth) -> None:
        """Paint a flat polygon of (x, y) at depth ``z``."""
        self.paint(self.project(np.array([(x, y, z) for x, y in corners])), cloth)

    def paint(self, outline: Points, cloth: Cloth) -> None:
        """Fill an outline [N, 2] in pixels with cloth, rounded by shading and wrinkled by folds."""
        height, width = self.folds.shape
        left, top = np.clip(np.floor(outline.min(axis=0)).astype(int), 0, [width, height])
        right, bottom = np.clip(np.ceil(outline.max(axis=0)).astype(int) + 1, 0, [width, height])
        if left >= right or top >= bottom:
            return
        area = np.s_[top:bottom, left:right]
        mask = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillPoly(mask, [np.round((outline - [left, top]) * 16).astype(np.int32)], 1, shift=4)
        depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
        roundness = 0.62 + 0.38 * np.sqrt(depth / max(float(depth.max()), 1))
        side = np.linspace(-1, 1, right - left, dtype=np.float32) * self.camera.light * 0.2
        shade = (roundness + side) * self.folds[area]
        inside = mask.astype(bool)
        surface = self._surface(cloth, area) * shade[..., None]
        self.pixels[area][inside] = surface[inside]

    def _surface(self, cloth: Cloth, area: tuple[slice, slice]) -> Floats:
        if cloth.pattern == "plain":
            return cloth.colour
        rows, columns = np.mgrid[area].astype(np.float32)
        v = (rows - self.foot[1]) / self.unit + 1
        u = (columns - self.foot[0]) / self.unit + self.pose.lean * (v - 1)
        return np.where(_woven(cloth, u, v)[..., None], cloth.second, cloth.colour)


def _woven(cloth: Cloth, u: Floats, v: Floats) -> npt.NDArray[np.bool_]:
    """Where the second colour of a pattern shows, at body coordinates u (across) and v (down)."""
    across, down = u / cloth.period % 1, v / cloth.period % 1
    shows: dict[Pattern, npt.NDArray[np.bool_]] = {
        "stripes": down < 0.45,
        "pinstripes": across < 0.35,
        "checks": (across < 0.4) ^ (down < 0.4),
        "dots": np.hypot(across - 0.5, down - 0.5) < 0.32,
        "yoke": v < 0.27,
        "band": abs(v - 0.33) < cloth.period / 2,
    }
    return shows[cloth.pattern]


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
            # "picture": the name of a published draw, which never changes
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
        _draw_person(Canvas(pixels, folds, camera, _pose(rng, camera, passing=True)), _person(rng))
    canvas = Canvas(pixels, folds, camera, _pose(rng, camera))
    _draw_person(canvas, person)
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


# The figure, from back to front


def _draw_person(canvas: Canvas, person: Person) -> None:
    far, near = sorted((-1, 1), key=lambda side: -side * canvas.sin)
    _draw_shadow(canvas)
    if canvas.cos >= 0:
        _draw_back(canvas, person)
    _draw_arm(canvas, person, far)
    _draw_leg(canvas, person, far)
    _draw_leg(canvas, person, near)
    _draw_torso(canvas, person)
    (_draw_front if canvas.cos >= 0 else _draw_back)(canvas, person)
    _draw_arm(canvas, person, near)
    _draw_head(canvas, person)


def _draw_shadow(canvas: Canvas) -> None:
    height, width = canvas.folds.shape
    across = np.exp(-(((np.arange(width) - canvas.foot[0]) / (0.2 * canvas.unit)) ** 2))
    down = np.exp(-(((np.arange(height) - canvas.foot[1]) / (0.05 * canvas.unit)) ** 2))
    canvas.pixels *= 1 - 0.5 * np.outer(down, across).astype(np.float32)[..., None]


def _draw_leg(canvas: Canvas, person: Person, side: int) -> None:
    angle = side * canvas.pose.stride
    bent = angle - 0.05 - 1.2 * max(0, -angle)  # the leg behind bends at the knee
    hip = (side * person.hip * 0.52, person.waist + 0.08, 0.0)
    length = (0.965 - hip[1]) / 2
    knee = _reach(hip, length, angle)
    ankle = _reach(knee, length, bent)
    thigh = person.bottom if person.bottom_kind in ("trousers", "shorts") else person.skin
    calf, cuff = (person.bottom, 0.033) if person.bottom_kind == "trousers" else (person.skin, 0.022)
    canvas.limb(knee, ankle, (0.037 * person.limb, cuff * person.limb), calf)
    canvas.limb(hip, knee, (0.054 * person.limb, 0.042 * person.limb), thigh)
    x, y, z = ankle
    canvas.limb((x, y + 0.018, z - 0.012), (x, y + 0.022, z + 0.05), (0.022, 0.018), person.shoes)


def _draw_torso(canvas: Canvas, person: Person) -> None:
    shoulder, hip, waist = person.shoulder, person.hip, person.waist
    if person.bottom_kind in ("skirt", "dress"):
        canvas.tube([(waist, hip, 0.07), (0.5, hip * 1.15, 0.085), (0.71, hip * 1.4, 0.12)], person.bottom)
    else:
        canvas.tube([(waist, hip, 0.07), (waist + 0.11, hip * 1.1, 0.075)], person.bottom)
    canvas.limb((0, 0.11, 0.005), (0, 0.165, 0), (0.028, 0.032), person.skin)
    sections = [
        (0.155, 0.035, 0.035),
        (0.175, shoulder * 0.66, 0.05),
        (0.195, shoulder * 0.92, 0.065),
        (0.22, shoulder, 0.072),
        (0.28, shoulder * 0.97, 0.078),
        (waist, (shoulder + hip) * 0.46, 0.07),
        (person.hem, hip * 1.14, 0.082),
    ]
    canvas.tube(sections, person.jacket or person.top)


def _draw_front(canvas: Canvas, person: Person) -> None:
    """What is on the chest."""
    if person.jacket:
        opening = [(-0.025, 0.165), (0.025, 0.165), (0.045, person.hem), (-0.045, person.hem)]
        canvas.patch(opening, 0.07, person.top)
    if person.print_side == 1:
        _draw_print(canvas, person, 0.07)
    if person.bag_kind == "backpack":
        for x in (-0.065, 0.065):
            canvas.limb((x, 0.185, 0.05), (x * 1.15, 0.37, 0.07), (0.012, 0.01), person.bag)
    elif person.bag_kind == "shoulder":
        canvas.limb((-0.06, 0.175, 0.05), (0.12, 0.48, 0.05), (0.009, 0.009), person.bag)


def _draw_back(canvas: Canvas, person: Person) -> None:
    """What is on the back."""
    if person.print_side == -1:
        _draw_print(canvas, person, -0.07)
    if person.bag_kind == "backpack":
        sections = [(0.185, 0.05, 0.03), (0.22, 0.078, 0.05), (0.39, 0.086, 0.058), (0.43, 0.07, 0.04)]
        canvas.tube(sections, person.bag, z=-0.115)
        canvas.patch([(-0.05, 0.31), (0.05, 0.31), (0.055, 0.4), (-0.055, 0.4)], -0.17, person.bag)
    elif person.bag_kind == "shoulder":
        canvas.limb((-0.06, 0.175, -0.05), (0.12, 0.48, -0.05), (0.009, 0.009), person.bag)
    if person.hair_end:
        sections = [(0.04, 0.052, 0.045), (0.11, 0.058, 0.04), (person.hair_end, 0.05, 0.03)]
        canvas.tube(sections, person.hair, z=-0.035)


def _draw_print(canvas: Canvas, person: Person, z: float) -> None:
    half = person.print_size
    ink = Cloth(person.top.second, person.top.colour)
    canvas.patch([(-half, 0.23), (half, 0.23), (half, 0.23 + half), (-half, 0.23 + half)], z, ink)


def _draw_arm(canvas: Canvas, person: Person, side: int) -> None:
    swing = -side * canvas.pose.stride * 0.9  # opposite to the leg of the same side
    bend = canvas.pose.elbows[side > 0]
    shoulder = (side * (person.shoulder + 0.003), 0.212, 0.0)
    elbow = _reach(shoulder, 0.155, swing, side * 0.02)
    wrist = _reach(elbow, 0.135, swing + bend)
    thick = person.limb
    sleeve = person.jacket or person.top
    canvas.limb(elbow, wrist, (0.026 * thick, 0.02 * thick), person.skin if person.short_sleeves else sleeve)
    canvas.limb(wrist, _reach(wrist, 0.025, swing + bend), (0.018, 0.018), person.skin)
    canvas.limb(shoulder, elbow, (0.033 * thick, 0.028 * thick), sleeve)
    if side > 0 and person.bag_kind in ("handbag", "shoulder"):
        x, y, z = wrist if person.bag_kind == "handbag" else (side * 0.14, 0.47, 0.0)
        sections = [(y + 0.03, 0.03, 0.045), (y + 0.05, 0.035, 0.06), (y + 0.13, 0.04, 0.065)]
        canvas.tube(sections, person.bag, x, z)


def _draw_head(canvas: Canvas, person: Person) -> None:
    canvas.limb((0, 0.055, -0.008), (0, 0.075, -0.008), (0.053, 0.05), person.hair)
    if canvas.cos > -0.5:
        canvas.limb((0, 0.065, 0.018), (0, 0.098, 0.018), (0.038, 0.03), person.skin)
    if person.hat:
        canvas.limb((0, 0.035, -0.005), (0, 0.045, -0.005), (0.053, 0.053), person.hat)
        canvas.limb((0, 0.05, 0.03), (0, 0.055, 0.075), (0.02, 0.012), person.hat)


def _reach(joint: Joint, length: float, angle: float, outward: float = 0) -> Joint:
    """The other end of a bone that hangs from ``joint``, swung forward by ``angle`` (radians)."""
    x, y, z = joint
    return x + outward, y + length * float(np.cos(angle)), z + length * float(np.sin(angle))


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
