"""Adapt a network to two cameras from pairs of images: a whitening, in seconds."""

import csv
from pathlib import Path

import numpy as np

from dgrl.embedders.adapted import save_whitening
from dgrl.embedders.catalog import load_embedder, parse_model
from dgrl.embedders.embedder import read_image
from dgrl.embedders.protocol import Embedder, Resolution
from dgrl.errors import InputError
from dgrl.evaluation.adaptation import Whitening, fit
from dgrl.evaluation.ranking import Embeddings

COLUMNS = ("query", "gallery")  # of a table of pairs; person_id is optional


def adapt(model: str, pairs: Path, output: Path, *, flip: bool = True) -> Whitening:
    """Fit a whitening and write it into ``output``.

    Args:
        model: ``PATH`` or ``PATH@PREPROCESSING`` of a network.
        pairs: CSV with a row for each pair: ``query`` and ``gallery``, the paths of an LR and an HR image of
            one person, relative to the table's folder, and ``person_id`` where a person has several rows. The
            network must not have been trained on these persons, which its file cannot tell.
        output: a ``.safetensors`` file.
        flip: embed an image as the sum of itself and its mirror image, as the search then must.

    Raises:
        InputError: if a file is missing or wrong, or the pairs are too few.
    """
    rows = _read(pairs)
    network = load_embedder(*parse_model(model), flip=flip)
    names = [row.get("person_id") or f"row {number}" for number, row in enumerate(rows)]
    persons = np.unique(names, return_inverse=True)[1]
    query = _side(network, pairs.parent, [row["query"] for row in rows], persons, "lr")
    gallery = _side(network, pairs.parent, [row["gallery"] for row in rows], persons, "hr")
    whitening = fit(query, gallery)
    save_whitening(output, whitening, network.digest)
    return whitening


def _side(
    network: Embedder, folder: Path, paths: list[str], persons: np.ndarray, resolution: Resolution
) -> Embeddings:
    """Each image of a side once."""
    unique = dict(zip(paths, persons.tolist(), strict=True))
    features = network.embed([read_image(folder / path) for path in unique], resolution)
    codes = np.fromiter(unique.values(), np.int64)
    return Embeddings(features, codes, np.full_like(codes, resolution == "hr"))


def _read(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{table} is no readable table ({error}); restore it or correct the path") from None
    found = reader.fieldnames or []
    if missing := [column for column in COLUMNS if column not in found]:
        raise InputError(f"{table} has no column {missing[0]}, only {list(found)}; add it")
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values() or not all(row[column] for column in COLUMNS):
            raise InputError(
                f"{table}: row {number} below the header is not a cell for each column; correct it"
            )
    return rows
