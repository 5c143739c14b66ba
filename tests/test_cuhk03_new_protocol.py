"""CUHK03's new protocol: the split of Zhong et al.'s files, whole and damaged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archives import message_of
from mat_files import LABELLED, expect_small, image_id, stage_params, write_mat
from scipy.io import savemat

from dgrl.datasets import cuhk03
from dgrl.errors import InputError
from dgrl.tables import read_keys
from pipeline.download import download
from pipeline.split import split


@pytest.fixture(autouse=True)
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    expect_small(monkeypatch)


Lists = dict[str, list[str]]
NEW: Lists = {
    "train": ["1_001_1_01.png", "1_001_2_06.png", "5_001_1_05.png"],
    "query": ["2_002_1_02.png", "2_002_2_10.png"],
    "gallery": ["2_002_1_01.png"],
}


@pytest.fixture
def small_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {subset: len(files) for subset, files in NEW.items()}
    monkeypatch.setattr(cuhk03, "NEW_PROTOCOL", {"labelled": counts, "detected": {**counts, "train": 4}})


def write_config(path: Path, lists: Lists = NEW, shift: int = 1) -> Path:
    """A MATLAB v5 file: a column of file names, and columns of indices into it that count from 1."""
    files = sorted({file for files in lists.values() for file in files})
    indices = {f"{k}_idx": np.array([[files.index(f) + shift] for f in v], "u2") for k, v in lists.items()}
    savemat(path, {"filelist": np.array([[file] for file in files], object), **indices})
    return path


@pytest.mark.usefixtures("small_protocol")
def test_the_new_protocol(tmp_path: Path) -> None:
    split = cuhk03.new_protocol_split(write_config(tmp_path / "config.mat"))
    assert split == {
        "1_001_a_01": "train",
        "1_001_b_06": "train",
        "5_001_a_05": "train",
        "2_002_a_02": "query",
        "2_002_b_10": "query",
        "2_002_a_01": "gallery",
    }


def test_the_stages_split_as_the_new_protocol_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {name: f"{name[:5]}_{1 if name[6] == 'a' else 2}_{name[-2:]}.png" for name in names()}
    trained = {name for name in files if name[0] in "12"}
    lists = {
        "train": [files[name] for name in sorted(trained)],
        "query": [files[name] for name in sorted(files.keys() - trained) if name[6] == "a"],
        "gallery": [files[name] for name in sorted(files.keys() - trained) if name[6] == "b"],
    }
    monkeypatch.setattr(cuhk03, "NEW_PROTOCOL", {"labelled": {k: len(v) for k, v in lists.items()}})
    config = str(write_config(tmp_path / "config.mat", lists))
    params = stage_params(write_mat(tmp_path / "cuhk-03.mat"), trial=0, new_protocol=config)
    download("cuhk03", params)
    split("cuhk03", params, workers=1)
    assert set(read_keys(Path("data/cuhk03/mlr/train_hr")).image_id) == trained
    tested = [*read_keys(Path("data/cuhk03/mlr/query")).image_id]
    assert sorted([*tested, *read_keys(Path("data/cuhk03/mlr/gallery")).image_id]) == sorted(
        files.keys() - trained
    )


def test_an_image_that_the_new_protocol_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, *others = (f"{name[:5]}_{1 if name[6] == 'a' else 2}_{name[-2:]}.png" for name in names())
    lists = {"train": ["9_999_1_01.png", *others[2:]], "query": others[:1], "gallery": others[1:2]}
    monkeypatch.setattr(cuhk03, "NEW_PROTOCOL", {"labelled": {k: len(v) for k, v in lists.items()}})
    config = str(write_config(tmp_path / "config.mat", lists))
    params = stage_params(write_mat(tmp_path / "cuhk-03.mat"), trial=0, new_protocol=config)
    with pytest.raises(InputError, match=f"config.mat lacks the image {names()[0]}; give the protocol's own"):
        download("cuhk03", params)
    assert not Path("data/cuhk03/images").exists()


def names() -> list[str]:
    return sorted(image_id(*cell) for cell in LABELLED)


def test_the_counts_of_the_new_protocol_are_those_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for boxes, counts in cuhk03.NEW_PROTOCOL.items():
        assert sum(counts.values()) == cuhk03.IMAGES[boxes]


@pytest.mark.usefixtures("small_protocol")
def test_the_new_protocol_of_the_other_boxes(tmp_path: Path) -> None:
    path = write_config(tmp_path / "config.mat")
    message = message_of(lambda path: cuhk03.new_protocol_split(path, "detected"), path)
    assert "is not cuhk03_new_protocol_config_detected.mat" in message
    assert "'train': 3, 'query': 2, 'gallery': 1} instead of {'train': 4" in message


@pytest.mark.usefixtures("small_protocol")
def test_an_image_in_two_lists(tmp_path: Path) -> None:
    path = write_config(tmp_path / "config.mat", NEW | {"gallery": ["1_001_1_01.png"]})
    assert "each once" in message_of(cuhk03.new_protocol_split, path)


def a_config_of_rubbish(path: Path) -> None:
    path.write_bytes(b"MATLAB 5.0 MAT-file" * 20)


def a_config_without_lists(path: Path) -> None:
    savemat(path, {"labels": np.ones(3)})


def a_config_with_wrong_names(path: Path) -> None:
    write_config(path, NEW | {"gallery": ["1.png"]})


def a_config_that_counts_from_0(path: Path) -> None:
    write_config(path, shift=0)


def a_config_of_another_version(path: Path) -> None:
    write_mat(path)


def test_a_missing_config(tmp_path: Path) -> None:
    message = message_of(cuhk03.new_protocol_split, tmp_path / "config.mat")
    assert "cannot be read (No such file" in message


@pytest.mark.usefixtures("small_protocol")
@pytest.mark.parametrize(
    "make",
    [
        a_config_of_rubbish,
        a_config_without_lists,
        a_config_with_wrong_names,
        a_config_that_counts_from_0,
        a_config_of_another_version,
    ],
)
def test_a_wrong_config(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "config.mat")
    message = message_of(cuhk03.new_protocol_split, tmp_path / "config.mat")
    assert "is no readable cuhk03_new_protocol_config_labeled.mat" in message
    assert "give the protocol's own file" in message
