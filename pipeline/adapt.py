"""Adapt a network to two cameras from pairs of images: a whitening, in seconds."""

from pathlib import Path

import numpy as np

from dgrl.datasets.cells import read_cells
from dgrl.embedders.adapted import save_whitening
from dgrl.embedders.catalog import load_embedder, parse_model
from dgrl.embedders.folder import read_folder
from dgrl.embedders.protocol import Embedder, Resolution
from dgrl.errors import InputError
from dgrl.evaluation.adaptation import Whitening, fit
from dgrl.evaluation.ranking import Embeddings
from dgrl.images import read_image

COLUMNS = ("query", "gallery")  # of a table of pairs; person_id is optional


def adapt(model: str, pairs: Path, output: Path, *, flip: bool = True) -> Whitening:
    """Fit a whitening and write it into ``output``.

    Args:
        model: ``PATH`` or ``PATH@PREPROCESSING`` of a network; of an exported folder the network without the
            whitening that it has, with its flip.
        pairs: CSV or Parquet with a row for each pair: ``query`` and ``gallery``, the paths of an LR and an
            HR image of one person, relative to the table's folder, and ``person_id`` where a person has
            several rows. The network must not have been trained on these persons, which its file cannot tell.
        output: a ``.safetensors`` file.
        flip: embed an image as the sum of itself and its mirror image, as the search then must.

    Raises:
        InputError: if a file is missing or wrong, or the pairs are too few.
    """
    rows = _read(pairs)
    path, preprocessing = parse_model(model)
    if path.is_dir():
        folder = read_folder(path)
        path, flip = folder.model, flip or folder.flip
    if output.suffix != ".safetensors" or output.resolve() == path.resolve():
        raise InputError(f"{output} is no name for the result; give another one that ends in .safetensors")
    network = load_embedder(path, preprocessing, flip=flip)
    names = [row.get("person_id") or f"row {number}" for number, row in enumerate(rows, 1)]
    for column in COLUMNS:
        _check_persons(pairs, column, [row[column] for row in rows], names)
    persons = np.unique(names, return_inverse=True)[1]
    query = _side(network, pairs.parent, [row["query"] for row in rows], persons, "lr")
    gallery = _side(network, pairs.parent, [row["gallery"] for row in rows], persons, "hr")
    whitening = fit(query, gallery)
    save_whitening(output, whitening, network.digest, flip=flip)
    return whitening


def _side(
    network: Embedder, folder: Path, paths: list[str], persons: np.ndarray, resolution: Resolution
) -> Embeddings:
    """Each image of a side once."""
    unique = dict(zip(paths, persons.tolist(), strict=True))
    features = network.embed([read_image(folder / path) for path in unique], resolution)
    codes = np.fromiter(unique.values(), np.int64)
    return Embeddings(features, codes, np.full_like(codes, resolution == "hr"))


def _check_persons(table: Path, column: str, paths: list[str], names: list[str]) -> None:
    """Refuse an image of two persons: it would count as one's alone."""
    known: dict[str, str] = {}
    for path, name in zip(paths, names, strict=True):
        if (other := known.setdefault(path, name)) != name:
            raise InputError(
                f"{table}: the {column} {path} is of {other} and of {name}; an image shows one person: name "
                "the person of each row in a column person_id"
            )


def _read(table: Path) -> list[dict[str, str]]:
    columns, cells = read_cells(table)
    if missing := [column for column in COLUMNS if column not in columns]:
        raise InputError(f"{table} has no column {missing[0]}, only {columns}; add it")
    rows = [dict(zip(columns, row, strict=True)) for row in cells]
    for number, row in enumerate(rows, 1):
        if empty := [column for column in COLUMNS if not row[column]]:
            raise InputError(f"{table}: row {number} below the header has no {empty[0]}; add it")
    return rows
