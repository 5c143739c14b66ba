"""CUHK03: 1,467 persons, each seen by one of five pairs of cameras, at most five times by each of the two.

Official form: one MATLAB v7.3 file (HDF5), ``cuhk03_release/cuhk-03.mat``, with the variables ``labeled``
(boxes drawn by hand) and ``detected`` (by a detector): 5 x 1 cells, one of each pair, of M x 10 cells of
images, the first five columns of one camera, the last five of the other, some empty; and ``testsets``:
20 x 1 cells of 100 x 2 numbers, the pair and the row (both from 1) of the test persons of a trial.

Source: W. Li et al., DeepReID: Deep Filter Pairing Neural Network for Person Re-identification, CVPR 2014.
That paper counts 1,360 persons, those of the first three pairs; the file has all five. The persons of each
pair, and the 14,096 labelled and 14,097 detected images, are those of the new protocol: Z. Zhong et al.,
Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017, whose files name every image
(https://github.com/zhunzhong07/person-re-ranking, evaluation/data/CUHK03). Of the labelled boxes, person
3_068 has those of camera 3_b only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from dgrl.config import Section
from dgrl.datasets.archive import open_archive, require_readable
from dgrl.datasets.fetch import RemoteFile
from dgrl.errors import InputError
from dgrl.images import Image
from dgrl.limits import limits
from dgrl.tables import ImageRow

Boxes = Literal["labelled", "detected"]
Subset = Literal["train", "query", "gallery"]

FILE = "cuhk-03.mat"
MAX_BYTES = 4 << 30  # of that file, which holds all images, in a zip file
VARIABLES = {"labelled": "labeled", "detected": "detected"}
PERSONS = (843, 440, 77, 58, 49)  # by pair of cameras
IMAGES = {"labelled": 14_096, "detected": 14_097}
SPLITS = 20
TEST_PERSONS = 100
COLUMNS = 10  # images a person can have, half of them of each camera
NEW_PROTOCOL: dict[Boxes, dict[Subset, int]] = {  # images of 767 + 700 persons
    "labelled": {"train": 7_368, "query": 1_400, "gallery": 5_328},
    "detected": {"train": 7_365, "query": 1_400, "gallery": 5_332},
}
# Nobody publishes a SHA-256; the MD5 is open-reid's (https://github.com/Cysu/open-reid, reid/datasets).
REMOTE = RemoteFile(
    name="cuhk03_release.zip",
    mirrors=(),  # a form must be filled in
    page="https://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html",
    md5="728939e58ad9f0ff53e521857dd8fb43",
)
_SUBSETS: tuple[Subset, ...] = ("train", "query", "gallery")


class Cuhk03Params(Section):
    """Where CUHK03 is, and which of its two sets of boxes to use."""

    kind: Literal["cuhk03"] = "cuhk03"
    archive: str | None = None  # zip file, folder or cuhk-03.mat itself; null: data/drop/
    new_protocol: str | None = None  # cuhk03_new_protocol_config_*.mat; null: the 20 official trials
    merge_cameras: bool = False  # (d) two cameras a and b instead of ten, as torchreid has it
    boxes: Boxes = "labelled"  # MLR-CUHK03 has 14,096 images (paper IV-A): the labelled ones


class _Cell(NamedTuple):
    """Where an image is in the file, by indices that start at 1 as in MATLAB."""

    pair: int
    row: int
    column: int

    @property
    def person(self) -> str:
        return f"{self.pair}_{self.row:03d}"

    @property
    def camera(self) -> str:
        return f"{self.pair}_{'a' if self.column <= COLUMNS // 2 else 'b'}"

    @property
    def image_id(self) -> str:
        return f"{self.person}_{self.camera[-1]}_{self.column:02d}"


@dataclass(frozen=True)
class Mat:
    """An open .mat file; MATLAB's arrays lie transposed in HDF5."""

    archive: Path
    file: Any  # h5py.File

    def dataset(self, key: Any, name: str) -> Any:
        """The array ``key`` (a name or a reference), not read yet; ``name`` is for the message."""
        try:
            found = self.file[key]
        except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
            raise self.error(name, f"is missing ({error})") from None
        if getattr(found, "shape", None) is None:
            raise self.error(name, "is no array")
        if found.external or found.is_virtual or found.file.filename != self.file.filename:
            raise self.error(name, "lies in another file, which is not read")
        if found.id.get_type().get_class() not in self._kinds():
            raise self.error(name, "has neither numbers nor references")
        if found.size > (most := 3 * limits().image_pixels):
            problem = f"has {found.size} numbers, more than the limit of {most} (3 limits.image_pixels)"
            raise self.error(name, problem)
        return found

    def _kinds(self) -> tuple[int, ...]:
        """Of types, all but such as text or lists, of which one element takes any memory."""
        from h5py import h5t

        return h5t.INTEGER, h5t.FLOAT, h5t.REFERENCE

    def read(self, key: Any, name: str) -> npt.NDArray[Any]:
        """The array as MATLAB shows it."""
        dataset = self.dataset(key, name)
        try:
            return np.asarray(dataset[()]).T
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise self.error(name, f"is damaged ({error})") from None

    def cells(self, variable: str) -> list[npt.NDArray[Any]]:
        """The arrays in a column of cells."""
        references = self.read(variable, variable).ravel()
        return [self.read(key, f"{variable}{{{row}}}") for row, key in enumerate(references, 1)]

    def error(self, name: str, problem: str) -> InputError:
        """What is wrong with a variable of the file."""
        return InputError(f"{self.archive}: {name} {problem}; give the official {FILE} of CUHK03")


def images(params: Cuhk03Params, archive: Path | Mat) -> Iterator[ImageRow]:
    """One row per image, sorted by image_id, as PNG: the file has bare pixels.

    ``1_001_a_03`` is column 3 of person ``1_001`` (pair, row) by camera ``1_a``, ``1_001_b_06`` column 6 by
    camera ``1_b``. Every subset is ``all``, or, with the new protocol, ``train`` or ``test``: MLR has queries
    and galleries of its own.

    Args:
        params: the section.
        archive: cuhk-03.mat, a folder that holds it, or the official zip file; or what ``open_mat`` opened.

    Raises:
        InputError: if the archive is not CUHK03, whole and undamaged; if the new protocol lacks an image, and
            as ``new_protocol_split``.
    """
    config = params.new_protocol
    subsets = None if config is None else new_protocol_split(Path(config), params.boxes)
    with open_mat(archive) as mat:
        for cell, reference in _images(mat, params.boxes).items():
            subset = "all" if subsets is None else subsets.get(cell.image_id)
            if subset is None:
                raise InputError(f"{config} lacks the image {cell.image_id}; give the protocol's own file")
            yield ImageRow.from_pixels(
                _pixels(mat, reference, _matlab_name(params.boxes, cell)),
                f"{cell.image_id}.png",
                image_id=cell.image_id,
                person_id=cell.person,
                camera_id=cell.camera[-1] if params.merge_cameras else cell.camera,
                subset=subset if subset in ("all", "train") else "test",
                factor=1,
            )


def splits(params: Cuhk03Params, archive: Path | Mat) -> list[list[str]]:
    """The test persons of each official trial; none with the new protocol, which is one split."""
    return official_splits(archive) if params.new_protocol is None else []


def official_splits(archive: Path | Mat) -> list[list[str]]:
    """The test persons of each of the 20 official trials: lists of 100 person_ids; the others train.

    Raises:
        InputError: if the archive is not CUHK03, or its test sets are not these.
    """
    with open_mat(archive) as mat:
        testsets = mat.cells("testsets")  # [100, 2] each
        if len(testsets) != SPLITS:
            raise mat.error("testsets", f"has {len(testsets)} cells instead of {SPLITS}")
        return [_test_persons(mat, testset, f"testsets{{{i}}}") for i, testset in enumerate(testsets, 1)]


def new_protocol_split(config: Path, boxes: Boxes = "labelled") -> dict[str, Subset]:
    """The subset of each image in the new protocol (767 training and 700 test persons), by image_id.

    Args:
        config: the protocol's own cuhk03_new_protocol_config_labeled.mat or ..._detected.mat.
        boxes: which of the two it is.

    Raises:
        InputError: if the file is missing, damaged or not this one.
    """
    name = f"cuhk03_new_protocol_config_{VARIABLES[boxes]}.mat"
    require_readable(config)
    try:
        split = _read_config(config)
    except Exception as error:  # scipy's reader raises whatever the damage happens to cause
        raise InputError(f"{config} is no readable {name} ({error}); give the protocol's own file") from None
    counts = {subset: sum(found == subset for _, found in split) for subset in _SUBSETS}
    if counts != NEW_PROTOCOL[boxes] or len(dict(split)) != len(split):
        raise InputError(
            f"{config} is not {name}: its images are {counts} instead of {NEW_PROTOCOL[boxes]}, each once; "
            "give the protocol's own file"
        )
    return dict(split)


@contextmanager
def open_mat(archive: Path | Mat) -> Iterator[Mat]:
    """Open cuhk-03.mat, or take it as it is if it is open.

    In a zip file it is unpacked into memory, once, with its more than a gigabyte: HDF5 is not read from front
    to back.

    Raises:
        InputError: if it is missing or damaged.
    """
    if isinstance(archive, Mat):
        yield archive
        return
    import h5py  # here, since it is slow to import

    located = _locate(archive)
    if isinstance(located, Path):
        require_readable(located)
    try:
        file = h5py.File(located, "r")
    except OSError as error:
        raise InputError(
            f"{archive}: {FILE} is no whole MATLAB v7.3 file ({error}); get it again from its source"
        ) from None
    with file:
        yield Mat(archive, file)


def _locate(archive: Path) -> Path | BytesIO:
    """The .mat file itself, or the one in a folder or zip file."""
    if archive.is_file() and archive.suffix == ".mat":
        return archive
    with open_archive(archive) as opened:
        names = [name for name in opened.names if name.rpartition("/")[2] == FILE]
        if len(names) != 1:
            problem = f"has {FILE} {len(names)} times" if names else f"has no file {FILE}"
            raise InputError(f"{archive} {problem}; give the official CUHK03 archive")
        return archive / names[0] if archive.is_dir() else BytesIO(opened.read(names[0], MAX_BYTES))


def _images(mat: Mat, boxes: Boxes) -> dict[_Cell, Any]:
    """The references of all images, in the order of their image_ids."""
    variable = VARIABLES[boxes]
    pairs = mat.cells(variable)  # [M, 10] references each
    shapes = [pair.shape for pair in pairs]
    if shapes != [(persons, COLUMNS) for persons in PERSONS]:
        raise mat.error(
            variable, f"has cells of {shapes} instead of {PERSONS} persons with {COLUMNS} columns"
        )
    cells = {
        _Cell(pair, row + 1, column + 1): reference
        for pair, references in enumerate(pairs, 1)
        for (row, column), reference in np.ndenumerate(references)
    }
    # An image has three dimensions; MATLAB stores an empty cell as the list of its dimensions: one
    members = {
        cell: reference
        for cell, reference in cells.items()
        if mat.dataset(reference, _matlab_name(boxes, cell)).ndim > 1
    }
    _check_complete(mat, boxes, members)
    return members


def _check_complete(mat: Mat, boxes: Boxes, members: dict[_Cell, Any]) -> None:
    cameras = {f"{pair}_{letter}" for pair in range(1, len(PERSONS) + 1) for letter in "ab"}
    for camera in sorted(cameras - {cell.camera for cell in members}):
        raise mat.error(VARIABLES[boxes], f"has no image of camera {camera}")
    if len(members) != IMAGES[boxes]:
        raise mat.error(VARIABLES[boxes], f"has {len(members)} images instead of {IMAGES[boxes]}")


def _matlab_name(boxes: Boxes, cell: _Cell) -> str:
    return f"{VARIABLES[boxes]}{{{cell.pair}}}{{{cell.row},{cell.column}}}"


def _pixels(mat: Mat, reference: Any, name: str) -> Image:
    pixels = mat.read(reference, name)  # [H, W, 3]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise mat.error(name, f"is no RGB image but {pixels.dtype} of shape {pixels.shape}")
    return np.ascontiguousarray(pixels)


def _test_persons(mat: Mat, testset: npt.NDArray[Any], name: str) -> list[str]:
    if testset.shape != (TEST_PERSONS, 2) or testset.dtype.kind not in "uif":
        raise mat.error(
            name, f"is {testset.dtype} of shape {testset.shape} instead of {(TEST_PERSONS, 2)} numbers"
        )
    known = {f"{pair}_{row + 1:03d}" for pair, rows in enumerate(PERSONS, 1) for row in range(rows)}
    persons = [f"{pair:.0f}_{row:03.0f}" for pair, row in testset]
    unknown = [person for person in persons if person not in known]
    if unknown:
        raise mat.error(name, f"names person {unknown[0]}, whom no pair of cameras has seen")
    if len(set(persons)) != TEST_PERSONS:
        raise mat.error(name, "names a person twice")
    return persons


def _read_config(config: Path) -> list[tuple[str, Subset]]:
    """The image_id and the subset of every entry of the three lists of indices."""
    from scipy.io import loadmat  # here, since it is slow to import

    values = loadmat(config, appendmat=False)
    files = (cell.item() for cell in values["filelist"].ravel())
    image_ids = dict(enumerate(map(_image_id, files), 1))
    return [(image_ids[i], subset) for subset in _SUBSETS for i in values[f"{subset}_idx"].ravel().tolist()]


def _image_id(file: str) -> str:
    """From the protocol's ``1_001_1_03.png``: pair, row, camera of the pair, column."""
    pair, row, _, column = file.removesuffix(".png").split("_")
    return _Cell(int(pair), int(row), int(column)).image_id
