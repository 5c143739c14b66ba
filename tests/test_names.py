"""Persons and cameras are found in the names that people give to images, or nothing is made up."""

from collections.abc import Callable, Iterator

import pytest
import regex

from dgrl.errors import InputError
from pipeline.names import find_pattern

PERSONS = ("anna", "ben", "carl", "dora", "emil", "fay")
CAMERAS = ("gate", "yard", "door")
Namer = Callable[[int, int, int], str]


def names(namer: Namer) -> list[str]:
    return [namer(p, c, k) for p in range(len(PERSONS)) for c in range(len(CAMERAS)) for k in range(2)]


def truth() -> Iterator[tuple[int, int]]:
    return ((p, c) for p in range(len(PERSONS)) for c in range(len(CAMERAS)) for _ in range(2))


@pytest.mark.parametrize(
    "namer",
    [
        lambda p, c, k: f"{PERSONS[p]}/{CAMERAS[c]}_{k}.jpg",
        lambda p, c, k: f"{CAMERAS[c]}/{PERSONS[p]}_{k}.PNG",
        lambda p, c, k: f"{CAMERAS[c]}/{PERSONS[p]}/{k}.png",
        lambda p, c, k: f"all images/{PERSONS[p]}/{CAMERAS[c]}/{k}.png",
        lambda p, c, k: f"{PERSONS[p]}-{CAMERAS[c]}-{k}.jpeg",
        lambda p, c, k: f"{PERSONS[p]} {CAMERAS[c]} {k}.bmp",
        lambda p, c, k: f"person_{p}_cam_{c}_{k}.png",
        lambda p, c, k: f"p{p}c{c}_{k}.png",
        lambda p, c, k: f"{p:04d}_c{c}s{k + 1}_{p}{c}{k}_0{k}.jpg",  # Market-1501
        lambda p, c, k: f"{p:04d}_c{c}_f{p}{c}{k}.jpg",  # DukeMTMC-reID
        lambda p, c, k: f"VIPeR/cam_{'abc'[c]}/{p:03d}_{45 * k}.bmp",  # VIPeR
        lambda p, c, k: f"{p:04d}_{c}_{k:02d}.png",
        lambda p, c, k: f"{p:03d}/{c}/{k}.png",
        lambda p, c, k: f"{CAMERAS[c]}/2024050{k}_12{p}{c}{k}_{PERSONS[p]}.jpg",
        lambda p, c, k: f"day{k}/{CAMERAS[c]}/{PERSONS[p]}_{k}.jpg",
        lambda p, c, k: f"day{k}/{p:04d}/cam{c}_{k}.jpg",
        lambda p, c, k: f"{'train' if p < 3 else 'val'}/{CAMERAS[c]}/{PERSONS[p]}_{k}.jpg",
        lambda p, c, k: f"{'train' if p < 3 else 'gallery'}/{p:04d}/cam{c}_{k}.jpg",
    ],
)
def test_persons_and_cameras_are_found(namer: Namer) -> None:
    files = names(namer)
    pattern = find_pattern(files)
    found = [match for name in files if (match := regex.fullmatch(pattern, name))]
    assert len(found) == len(files)
    expected = list(truth())
    for group, place in (("person_id", 0), ("camera_id", 1)):
        pairs = {(match[group], each[place]) for match, each in zip(found, expected, strict=True)}
        assert len(pairs) == len({name for name, _ in pairs}) == len({number for _, number in pairs})


def test_folders_train_and_test_are_subsets() -> None:
    files = names(lambda p, c, k: f"{'train' if p < 3 else 'test'}/{CAMERAS[c]}/{PERSONS[p]}_{k}.png")
    match = regex.fullmatch(find_pattern(files), "test/gate/fay_1.png")
    assert match
    assert match.groupdict() == {"subset": "test", "camera_id": "gate", "person_id": "fay"}


def test_the_number_of_an_image_is_no_person() -> None:
    files = [f"{camera}/{person}_{k}.png" for camera in CAMERAS for person in PERSONS for k in range(2)]
    alone = [name for name in files if "gate" in name or "anna" in name]  # one person seen by two cameras
    with pytest.raises(InputError, match="no two fields"):
        find_pattern(alone)


def test_a_folder_lr_is_a_role() -> None:
    files = names(lambda p, c, k: f"{'lr' if c == 0 else 'hr'}/{PERSONS[p]}_{CAMERAS[c]}_{k}.png")
    match = regex.fullmatch(find_pattern(files), "lr/anna_gate_1.png")
    assert match
    assert match.groupdict() == {"role": "lr", "person_id": "anna", "camera_id": "gate"}
    files = [f"{role}/{person}_{k}.png" for role in ("hr", "lr") for person in PERSONS for k in range(2)]
    match = regex.fullmatch(find_pattern(files), "lr/anna_1.png")
    assert match
    assert match.groupdict() == {"camera_id": "lr", "person_id": "anna"}


def test_files_of_other_names_are_left_out() -> None:
    files = names(lambda p, c, k: f"{PERSONS[p]}/{CAMERAS[c]}_{k}.jpg")
    pattern = find_pattern([*files, "readme.txt", "cover.png"])
    assert not regex.fullmatch(pattern, "cover.png")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "no images"),
        (["a.txt"], "no images"),
        ([f"IMG_{k}.jpg" for k in range(9)], "name folders or files so that one field is the person"),
        ([f"{person}/{k}.jpg" for person in PERSONS for k in range(4)], "no two fields"),
        ([f"{PERSONS[p]}_{CAMERAS[p % 3]}.jpg" for p in range(6)], "no two fields"),  # each by one camera
    ],
)
def test_nothing_is_made_up(files: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        find_pattern(files)
