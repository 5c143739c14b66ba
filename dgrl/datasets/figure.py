"""The figure that the synthetic set shows: a person of a few tubes and limbs, drawn from back to front.

Body coordinates: x to the person's left, y down from the crown (0) to the soles (1), z forward; the unit is
the person's height. Colours are RGB in [0, 1] under neutral light, until a camera takes the image.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]  # [N, 2] pixels or [N, 3] body coordinates
Sections = list[tuple[float, float, float]]
Joint = tuple[float, float, float]
Pattern = Literal["plain", "stripes", "pinstripes", "checks", "dots", "yoke", "band"]

_ANGLES = np.linspace(0, 2 * np.pi, 16, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


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


def draw_person(canvas: Canvas, person: Person) -> None:
    """Paint a person, the farthest parts first."""
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
