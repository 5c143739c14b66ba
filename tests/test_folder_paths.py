"""The files that a table or a pattern of own images names: out of the folder, links, twice, damaged."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
from folder_of_images import FILES, PATTERN, ROWS, error_of, image, make_root, pattern, table

from dgrl.datasets.folder import images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path)


def test_a_path_that_no_system_has(root: Path) -> None:
    assert r"'yard/\x00.png' is no file below" in error_of(table(root, [*ROWS, "yard/\0.png,eve,yard"]))


def test_a_path_that_is_no_file(root: Path) -> None:
    assert "row 6 below the header: 'yard/eve.png' is no file" in error_of(
        table(root, [*ROWS, "yard/eve.png,eve,yard"])
    )


@pytest.mark.parametrize("path", ["../secret.png", "yard/../../secret.png", "yard/../door/eve.png"])
def test_a_path_that_climbs_out(root: Path, path: str) -> None:
    (root.parent / "secret.png").write_bytes(image(9))
    message = error_of(table(root, [*ROWS, f"{path},eve,yard"]))
    assert f"row 6 below the header: {path!r} leads out of" in message
    assert "put the image into that folder" in message


@pytest.mark.parametrize("path", [".", "./", "door/.."])
def test_a_path_that_is_the_folder_itself(root: Path, path: str) -> None:
    assert "row 6 below the header: " in error_of(table(root, [*ROWS, f"{path},eve,yard"]))
    assert "row 6 below the header: '.' is no file" in error_of(table(root, [*ROWS, f"{root},eve,yard"]))


def test_an_absolute_path_by_another_name_of_the_folder(root: Path) -> None:
    (root.parent / "link").symlink_to(root)
    rows = [f"{root.parent}/link/{row}" for row in ROWS]
    assert list(images(table(root, rows))) == list(images(table(root, ROWS)))


def test_an_absolute_path_of_another_folder(root: Path) -> None:
    path = root.parent / "secret.png"
    path.write_bytes(image(9))
    assert f"{str(path)!r} leads out of" in error_of(table(root, [f"{path},ann,door", *ROWS[1:]]))


@pytest.mark.parametrize(
    "make", [lambda root: pattern(root), lambda root: table(root, [*ROWS, "yard/eve_1.png,eve,yard"])]
)
def test_a_symbolic_link_that_leaves_the_folder(root: Path, make: Any) -> None:
    (root.parent / "secret.png").write_bytes(image(9))
    (root / "yard/eve_1.png").symlink_to(root.parent / "secret.png")
    assert "'yard/eve_1.png' is a link that leads out of" in error_of(make(root))


def test_a_symbolic_link_within_the_folder_is_an_image(root: Path) -> None:
    (root / "door/ann_2.png").symlink_to(root / "door/ann_1.png")
    assert [row.data for row in images(pattern(root))][:2] == [image(0), image(0)]


def test_a_zip_file_with_names_that_climb_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("../ann_1.png", image(0))
    message = error_of(pattern(tmp_path / "x.zip", r"(?P<camera_id>\.\.)/(?P<person_id>.*)_1.png"))
    assert "'../ann_1.png' leads out of" in message


@pytest.mark.parametrize("path", ["door/ann_1.png", "./door//ann_1.png"])
def test_a_path_twice(root: Path, path: str) -> None:
    message = error_of(table(root, [*ROWS, f"{path},ann,door"]))
    assert "row 6 below the header: 'door/ann_1.png' is in row 1 already; keep one" in message


def test_two_files_that_differ_in_their_suffix(root: Path) -> None:
    (root / "door/ann_1.jpg").write_bytes(image(9))
    message = error_of(pattern(root, PATTERN.replace("png", "(png|jpg)")))
    assert "has image door/ann_1 twice (door/ann_1.jpg, door/ann_1.png)" in message


def test_an_empty_image(root: Path) -> None:
    (root / FILES[3]).write_bytes(b"")
    assert f"{FILES[3]} is empty (0 bytes)" in error_of(pattern(root))


@pytest.mark.parametrize("data", [b"not an image", image(0)[:60]])
def test_an_image_that_is_none(root: Path, data: bytes) -> None:
    (root / FILES[3]).write_bytes(data)
    assert f"{FILES[3]} is not a readable image" in error_of(pattern(root))


def test_a_path_that_turns_within_the_folder(root: Path) -> None:
    turned = [row.replace("door/", "yard/../door/") for row in ROWS]
    assert list(images(table(root, turned))) == list(images(table(root, ROWS)))
