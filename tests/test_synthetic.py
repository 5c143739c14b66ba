"""The procedural benchmark: reproducible to the byte, and neither trivial nor leaking."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from dgrl.datasets.synthetic import Camera, Canvas, Pose, SyntheticParams
from dgrl.datasets.synthetic import images as generate
from dgrl.errors import InputError
from dgrl.images import pixel_sha256
from dgrl.tables import ImageRow

Floats = npt.NDArray[np.float64]
Describe = Callable[[npt.NDArray[np.uint8]], Floats]
SMALL = SyntheticParams(persons=3, images_per_camera=1, width=32, height=64)


def draw(params: SyntheticParams = SMALL, **changes: int) -> dict[str, ImageRow]:
    return {row.image_id: row for row in generate(params.model_copy(update=changes))}


@pytest.fixture(scope="module")
def benchmark() -> list[ImageRow]:
    return list(generate(SyntheticParams(persons=50)))


@pytest.fixture(scope="module")
def images(benchmark: list[ImageRow]) -> npt.NDArray[np.uint8]:
    return np.stack([row.pixels() for row in benchmark])


def test_two_runs_give_the_same_bytes() -> None:
    assert draw() == draw()


@pytest.mark.parametrize("more", [{"persons": 5}, {"cameras": 6}, {"images_per_camera": 3}])
def test_asking_for_more_changes_no_other_image(more: dict[str, int]) -> None:
    few, many = draw(), draw(SMALL, **more)
    assert len(many) > len(few)
    assert few == {image_id: many[image_id] for image_id in few}


def test_another_seed_is_another_benchmark() -> None:
    first, second = draw(), draw(seed=1)
    assert first.keys() == second.keys()
    assert all(first[key].pixel_sha256 != second[key].pixel_sha256 for key in first)


def test_rows_are_complete_and_sorted(benchmark: list[ImageRow]) -> None:
    ids = [row.image_id for row in benchmark]
    assert ids == sorted(set(ids))
    assert len(ids) == 50 * 4 * 2
    for row in benchmark:
        person, camera, index = row.image_id.split("_")
        assert (row.person_id, row.camera_id, row.path) == (person, camera, f"{row.image_id}.png")
        assert (row.subset, row.factor, index in ("01", "02")) == ("all", 1, True)
    assert ids[0] == "0001_c1_01"
    assert ids[-1] == "0050_c4_02"


def test_no_two_images_are_alike(benchmark: list[ImageRow]) -> None:
    assert len({row.pixel_sha256 for row in benchmark}) == len(benchmark)


@pytest.mark.parametrize(("width", "height"), [(16, 32), (48, 160), (96, 40)])
def test_images_have_the_size_asked_for(width: int, height: int) -> None:
    for row in draw(persons=2, width=width, height=height).values():
        pixels = row.pixels()
        assert pixels.shape == (row.height, row.width, 3) == (height, width, 3)
        assert pixel_sha256(pixels) == row.pixel_sha256
        assert row.data.startswith(b"\x89PNG")


def nearest(queries: Floats, gallery: Floats) -> npt.NDArray[np.intp]:
    distances = ((queries[:, None] - gallery[None]) ** 2).sum(axis=2)
    return distances.argmin(axis=1)


def histograms(images: npt.NDArray[np.uint8]) -> Floats:
    """HSV histograms of six horizontal stripes, square-rooted: the classic hand-made descriptor."""
    bins, ranges = [8, 4, 4], [0, 180, 0, 256, 0, 256]
    counts = [
        [cv2.calcHist([stripe], [0, 1, 2], None, bins, ranges).ravel() for stripe in np.array_split(hsv, 6)]
        for hsv in (cv2.cvtColor(image, cv2.COLOR_RGB2HSV) for image in images)
    ]
    return np.sqrt(np.array(counts, np.float64).reshape(len(images), -1))


def colour_means(images: npt.NDArray[np.uint8]) -> Floats:
    """Mean colours of a 12 x 4 grid over the person."""
    grids = [cv2.resize(image[:, 12:52], (4, 12), interpolation=cv2.INTER_AREA) for image in images]
    return np.array(grids, np.float64).reshape(len(images), -1)


@pytest.mark.parametrize("describe", [histograms, colour_means])
@pytest.mark.parametrize("camera", ["c1", "c2", "c3", "c4"])
def test_colours_alone_do_not_find_the_person_in_other_cameras(
    benchmark: list[ImageRow], images: npt.NDArray[np.uint8], describe: Describe, camera: str
) -> None:
    features = describe(images)
    person = np.array([row.person_id for row in benchmark])
    query = np.array([row.camera_id == camera for row in benchmark])
    found = person[~query][nearest(features[query], features[~query])]
    rank1 = (found == person[query]).mean()
    assert rank1 < 0.25


def borders(images: npt.NDArray[np.uint8]) -> Floats:
    """The colours of the outermost columns, without brightness: background and nothing else."""
    edge = np.concatenate([images[:, :, :6], images[:, :, -6:]], axis=2).astype(np.float64)
    bands = np.stack([band.mean(axis=(1, 2)) for band in np.array_split(edge, 4, axis=1)], axis=1)
    return (bands / bands.mean(axis=(1, 2), keepdims=True)).reshape(len(images), -1)


def test_the_background_tells_the_camera_but_not_the_person(
    benchmark: list[ImageRow], images: npt.NDArray[np.uint8]
) -> None:
    features = borders(images)
    distances = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    person = np.array([row.person_id for row in benchmark])
    camera = np.array([row.camera_id for row in benchmark])

    others = np.where(person[:, None] == person, np.inf, distances).argmin(axis=1)
    right_camera = (camera[others] == camera).mean()
    across = np.where(camera[:, None] == camera, np.inf, distances).argmin(axis=1)
    right_person = (person[across] == person).mean()
    assert right_camera > 0.75  # chance: 0.25
    assert right_person < 0.06  # chance: 0.02


def figure(**pose: float) -> Canvas:
    still = Pose(yaw=0, stride=0, elbows=(0, 0), lean=0, scale=1, foot=(0.5, 0.95))
    plain = Camera(
        heading=0, pitch=0, shear=0, scale=1, gain=np.ones(3, np.float32), gamma=1, saturation=1, blur=0,
        noise=0, light=0, scene=np.zeros((100, 50, 3), np.float32),
    )  # fmt: skip
    return Canvas(plain.scene, np.ones((100, 50), np.float32), plain, replace(still, **pose))  # type: ignore[arg-type]


def test_projection_turns_the_figure_around_its_axis() -> None:
    points = np.array([[0.1, 0.3, 0.0], [0.0, 0.3, 0.1], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    front, side, back = (figure(yaw=yaw).project(points) for yaw in (0, np.pi / 2, np.pi))
    axis = 25
    np.testing.assert_allclose(front[0, 0] - axis, axis - back[0, 0])  # left becomes right
    np.testing.assert_allclose(side[1, 0], front[0, 0])  # forward becomes sideways
    np.testing.assert_allclose(front[2], [25, 95])  # the soles stand where the pose says
    np.testing.assert_allclose(front[2, 1] - front[3, 1], 93)  # a body height of 100 pixels x 0.93


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"cameras": 3}, "download.cameras = 3"),
        ({"cameras": 9}, "less than or equal to 8"),
        ({"persons": 1}, "greater than or equal to 2"),
        ({"images_per_camera": 0}, "greater than or equal to 1"),
        ({"width": "64"}, "valid integer"),
        ({"height": 8}, "greater than or equal to 32"),
        ({"seed": -1}, "download.seed = -1"),
        ({"people": 10}, "people is not a known key"),
    ],
)
def test_wrong_parameters_are_named(values: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        SyntheticParams.parse(values, "download")


def test_drawing_needs_no_torch() -> None:
    code = "import sys, dgrl.datasets.synthetic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
