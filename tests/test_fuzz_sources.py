"""Archives, tables and images of any bytes: read, or refused in one line."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import unpack
from fuzz import CASES, attempt, damaged, fuzzed, tally  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from small_images import image_row, smooth_image

from dgrl.datasets import caviar, market1501, viper
from dgrl.datasets.folder import FolderParams
from dgrl.datasets.folder import images as folder_images
from dgrl.images import decode, encode_png
from dgrl.tables import read_keys, read_rows, write_shard

pytestmark = pytest.mark.usefixtures("tally")

PIXELS = smooth_image("fuzz", width=16, height=24)
PNG = encode_png(PIXELS)
PATTERN = r"(?P<person_id>[^/]*)/(?P<camera_id>.*)"
NAMES = [
    "VIPeR/cam_a/000_45.bmp", "CAVIAR4REID/0001001.jpg", "bounding_box_train/0002_c1s1_000451_03.jpg",
    "query/0002_c1s1_000451_03.jpg", "p/c.png", "../p/c.png", "/etc/passwd", "p//c.png", "C:\\p\\c.png",
    "p/", "",
]  # fmt: skip
Read = Callable[[Path], object]


def encoded(form: str) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(file, form)
    return file.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("root"), {"a.png": PNG, "b/c.png": PNG})


def by_pattern(archive: Path) -> object:
    return list(folder_images(FolderParams(root=str(archive), pattern=PATTERN)))


READERS: list[Read] = [
    by_pattern,
    lambda archive: list(viper.images(archive)),
    lambda archive: list(caviar.images(archive)),
    lambda archive: list(market1501.images(archive, "train")),
]
MEMBERS = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=20), st.sampled_from([PNG, b"", b"text"]))


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", draw(st.sampled_from([0, 8, 12, 14]))) as archive:
        for name, data in draw(MEMBERS).items():
            info = zipfile.ZipInfo("x")
            info.filename = name.encode("utf-8", "replace").decode()  # ZipInfo would tidy it
            archive.writestr(info, data)
    return file.getvalue() if draw(st.booleans()) else draw(damaged(file.getvalue()))


@fuzzed()
@given(data=zips() | st.binary(), reader=st.sampled_from(READERS))
def test_archive(tmp_path: Path, data: bytes, reader: Read) -> None:
    """Zip files with any names and damages."""
    path = tmp_path / "archive.zip"
    path.write_bytes(data)
    rows: Any = attempt(lambda: reader(path), str(path))
    if rows:
        write_shard(tmp_path / "table", rows)  # which every name must fit into
    assert {entry.name for entry in tmp_path.iterdir()} <= {"archive.zip", "table"}


CELLS = st.sampled_from(
    [
        "a.png",
        "b/c.png",
        "../a.png",
        "/a.png",
        ".",
        "./",
        "1",
        "",
        " ",
        '"',
        '""',
        ",",
        "\n",
        "\r",
        "\0",
        "hr",
        "lr",
        "train",
    ]
)
HEADER = "path,person_id,camera_id"
LINES = st.lists(st.lists(CELLS | st.text(max_size=5), max_size=6).map(",".join), max_size=4)
CSV = st.builds(
    lambda header, lines, encoding: "\n".join([header, *lines]).encode(encoding, "replace"),
    st.sampled_from([HEADER, HEADER + ",role,subset", HEADER + ",path", "path"]) | st.text(max_size=20),
    LINES,
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
)
GOOD_CSV = f"{HEADER},role,subset\na.png,1,c1,hr,train\nb/c.png,2,c2,lr,\n".encode()


def read_own(root: Path, table: Path, data: bytes) -> None:
    """Own images by a table of these bytes: refused, or rows that a shard can hold."""
    table.write_bytes(data)
    rows = attempt(lambda: list(folder_images(FolderParams(root=str(root), table=str(table)))))
    if rows:
        write_shard(table.with_name("table"), rows)


@fuzzed()
@given(data=CSV | st.binary() | damaged(GOOD_CSV))
def test_csv(tmp_path: Path, root: Path, data: bytes) -> None:
    """CSV tables of own images, with any cells and damages."""
    read_own(root, tmp_path / "table.csv", data)


COLUMN = st.one_of(
    st.lists(st.none() | st.sampled_from(["a.png", "b/c.png", "1", "hr", ""]), min_size=2, max_size=2),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2),
    st.lists(st.none() | st.floats(), min_size=2, max_size=2),
    st.lists(st.none() | st.binary(max_size=4), min_size=2, max_size=2),
    st.lists(st.none() | st.dates() | st.none(), min_size=2, max_size=2),
    st.lists(st.none() | st.datetimes(), min_size=2, max_size=2),
    st.lists(st.none() | st.booleans(), min_size=2, max_size=2),
    st.lists(st.none() | st.lists(st.integers(0, 9), max_size=2), min_size=2, max_size=2),
)


@st.composite
def own_parquet(draw: st.DrawFn) -> bytes:
    names = [
        "path",
        "person_id",
        "camera_id",
        *draw(st.lists(st.sampled_from(["role", "subset", "path", "x"]))),
    ]
    columns = [pa.array(draw(COLUMN)) for _ in names]
    if draw(st.booleans()):
        columns[0] = pa.array(["a.png", "b/c.png"])
    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, names), file)
    return file.getvalue() if draw(st.booleans()) else draw(damaged(file.getvalue()))


@fuzzed(CASES // 2)
@given(data=own_parquet())
def test_parquet_of_own_images(tmp_path: Path, root: Path, data: bytes) -> None:
    """Parquet tables of own images, with any columns and damages."""
    read_own(root, tmp_path / "table.parquet", data)


def project_shard() -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder, "part-00000.parquet")
        write_shard(file, [image_row(PIXELS, person, "a") for person in range(2)])
        return file.read_bytes()


@fuzzed(CASES // 2)
@given(data=damaged(project_shard()))
def test_parquet_of_the_project(tmp_path: Path, data: bytes) -> None:
    """Image tables of the project with damaged bytes."""
    path = tmp_path / "part-00000.parquet"
    path.write_bytes(data)
    attempt(lambda: (read_keys(path), [row.pixels() for row in read_rows(path)]))


IMAGES = [encoded(form) for form in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")]


@fuzzed()
@given(data=st.one_of(*map(damaged, IMAGES), st.binary()))
def test_images(capfd: pytest.CaptureFixture[str], data: bytes) -> None:
    """Image files with damaged bytes."""
    image = attempt(lambda: decode(data, "the image"), "the image")
    if image is not None:
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
    assert not capfd.readouterr().err
