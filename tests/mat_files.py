"""Small cuhk-03.mat files in the official structure, written by h5py as MATLAB v7.3 writes them."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from dgrl.datasets import cuhk03
from pipeline.params import Params, load_params

PERSONS = (3, 2, 1, 1, 1)
Cell = tuple[int, int, int]  # pair, row and column, each from 1
Contents = dict[Cell, npt.NDArray[Any]]


def images(seed: int) -> Contents:
    """Person (pair, row) has an image in columns 1 and 6, and in every column if it is (1, 2)."""
    rng = np.random.default_rng(seed)
    cells = [(pair, row) for pair, persons in enumerate(PERSONS, 1) for row in range(1, persons + 1)]
    return {
        (pair, row, column): rng.integers(0, 256, (rng.integers(8, 12), rng.integers(4, 7), 3), np.uint8)
        for pair, row in cells
        for column in (range(1, 11) if (pair, row) == (1, 2) else (1, 6))
    }


LABELLED, DETECTED = images(0), images(1)
del DETECTED[1, 2, 10]
TESTSETS: list[list[tuple[float, float]]] = [[(1, 1), (2, 2)], [(5, 1), (1, 3)], [(3, 1), (4, 1)]]


def cells(rows: list[list[h5py.Reference]]) -> npt.NDArray[Any]:
    return np.array(rows, dtype=h5py.ref_dtype)


def write_mat(
    path: Path,
    labelled: Contents = LABELLED,
    detected: Contents = DETECTED,
    testsets: list[list[tuple[float, float]]] = TESTSETS,
) -> Path:
    """MATLAB's arrays are transposed; a cell refers to a hidden array; an empty array is its dimensions."""
    with h5py.File(path, "w", userblock_size=512) as file:
        hidden = file.create_group("#refs#")

        def store(value: npt.NDArray[Any] | None) -> h5py.Reference:
            data = np.zeros(2, np.uint64) if value is None else value.T
            dataset = hidden.create_dataset(str(len(hidden)), data=data)
            if value is None:
                dataset.attrs["MATLAB_empty"] = np.uint8(1)
            return dataset.ref

        def boxes(contents: Contents) -> npt.NDArray[Any]:
            pairs = []
            for pair, persons in enumerate(PERSONS, 1):
                rows = [
                    [store(contents.get((pair, row, column))) for column in range(1, 11)]
                    for row in range(1, persons + 1)
                ]
                pairs.append([store(cells(rows))])
            return cells(pairs)

        file["labeled"] = boxes(labelled).T
        file["detected"] = boxes(detected).T
        file["testsets"] = cells([[store(np.array(testset, np.float64))] for testset in testsets]).T
    return path


def image_id(pair: int, row: int, column: int) -> str:
    return f"{pair}_{row:03d}_{'a' if column < 6 else 'b'}_{column:02d}"


def expect_small(
    monkeypatch: pytest.MonkeyPatch, labelled: Contents = LABELLED, detected: Contents = DETECTED
) -> None:
    """Let the reader expect files of this size."""
    monkeypatch.setattr(cuhk03, "PERSONS", PERSONS)
    monkeypatch.setattr(cuhk03, "IMAGES", {"labelled": len(labelled), "detected": len(detected)})
    monkeypatch.setattr(cuhk03, "SPLITS", len(TESTSETS))
    monkeypatch.setattr(cuhk03, "TEST_PERSONS", len(TESTSETS[0]))


def stage_params(mat: Path, trial: int, **source: object) -> Params:
    values = load_params(Path(__file__).parents[1] / "params.yaml").model_dump()
    values["source"]["cuhk03"] |= {"archive": str(mat), **source}
    values["mlr"] |= {"trial": trial, "factors": (2,)}
    return Params.parse(values, "")
