"""The whitening beside its formula in float64, and who may be used to fit it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from dgrl.embedders.adapted import Adapted, load_whitening, save_whitening
from dgrl.embedders.protocol import Resolution
from dgrl.errors import InputError
from dgrl.evaluation.adaptation import LAMBDAS, Side, Whitening, adapted, fit
from dgrl.evaluation.ranking import Embeddings, rank
from dgrl.images import Image
from dgrl.random import named_generator

Floats = npt.NDArray[np.float32]


def unit(values: npt.NDArray[np.float64]) -> Floats:
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)


def cameras(name: str, persons: int, size: int = 16, each: int = 1) -> tuple[Embeddings, Embeddings]:
    """Persons seen by two cameras, whose images differ in a few strong directions that say nothing."""
    rng = named_generator("cameras", name)
    ids = np.repeat(np.arange(persons), each)
    who = rng.normal(size=(persons, size))[ids]
    noise = np.diag(np.r_[np.full(size // 4, 4.0), np.full(size - size // 4, 0.3)])
    sides = [unit(who + rng.normal(size=(len(ids), size)) @ noise + shift) for shift in (0.0, 0.5)]
    return (
        Embeddings(sides[0], ids, np.zeros_like(ids)),
        Embeddings(sides[1], ids, np.ones_like(ids)),
    )


@given(st.integers(1, 3), st.integers(100, 140), st.integers(4, 24))
@settings(max_examples=20, deadline=None)
def test_the_whitening_is_its_formula(each: int, persons: int, size: int) -> None:
    query, gallery = cameras("formula", persons, size, each)
    whitening = fit(query, gallery)
    pairs = [
        (query.features[i].astype(np.float64), gallery.features[j].astype(np.float64))
        for i in range(len(query.features))
        for j in range(len(gallery.features))
        if query.person_ids[i] == gallery.person_ids[j]
    ]
    q_mean, g_mean = (np.mean([pair[side] for pair in pairs], axis=0) for side in (0, 1))
    w = np.mean([np.outer(d, d) for d in ((q - q_mean) - (g - g_mean) for q, g in pairs)], axis=0)
    w /= np.linalg.eigvalsh(w).mean()
    matrix = scipy.linalg.inv(scipy.linalg.sqrtm(w + whitening.shrinkage * np.eye(size)))
    sides: list[tuple[Any, Any, Side]] = [
        (query.features, q_mean, "query"),
        (gallery.features, g_mean, "gallery"),
    ]
    for features, mean, side in sides:
        moved = (features - mean) @ matrix.real
        expected = moved / np.linalg.norm(moved, axis=1, keepdims=True)
        np.testing.assert_allclose(whitening.apply(features, side), expected, atol=1e-5)
    assert whitening.pairs == len(pairs)
    assert whitening.shrinkage in LAMBDAS


def test_persons_who_were_not_fitted_are_found_more_often() -> None:
    fitted, tested = cameras("fit", 150), cameras("test", 100)
    plain = rank(*tested).metrics()["rank1"]
    assert rank(*adapted(fit(*fitted), *tested)).metrics()["rank1"] > plain + 10


def test_lambda_depends_on_the_fitted_persons_alone() -> None:
    """The same pairs with others beside them who have no pair: the same whitening."""
    query, gallery = cameras("fit", 120)
    stranger = Embeddings(query.features[:5] * -1, np.arange(900, 905), np.zeros(5, np.int64))
    more = Embeddings(
        np.concatenate([query.features, stranger.features]),
        np.concatenate([query.person_ids, stranger.person_ids]),
        np.concatenate([query.camera_ids, stranger.camera_ids]),
    )
    np.testing.assert_array_equal(fit(query, gallery).matrix, fit(more, gallery).matrix)


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(InputError, match="99 pairs of 99 persons are too few"):
        fit(*cameras("few", 99))
    with pytest.raises(InputError, match="of 3 persons"):
        fit(*cameras("few", 3, each=10))


class Constant:
    """An embedder of fixed embeddings."""

    name, digest, height, width, megabytes = "constant", "abc", 8, 4, 0.1
    trained_on: frozenset[str] = frozenset()

    def __init__(self, features: Floats) -> None:
        self.features = features

    def embed(self, images: list[Image], resolution: Resolution) -> Floats:
        return self.features[: len(images)]


def test_a_whitening_is_kept_in_a_file_of_its_network(tmp_path: Path) -> None:
    query, gallery = cameras("fit", 120)
    path, whitening = tmp_path / "w.safetensors", fit(query, gallery)
    save_whitening(path, whitening, "abc", flip=True)
    network = Constant(query.features)
    again = load_whitening(path, network, flip=True)  # type: ignore[arg-type]
    blank = [np.zeros((8, 4, 3), np.uint8)] * 3
    for resolution, side in (("lr", "query"), ("hr", "gallery")):
        found = Adapted(network, again).embed(blank, resolution)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found, whitening.apply(query.features[:3], side))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="fitted with flip = True, not False"):
        load_whitening(path, network, flip=False)  # type: ignore[arg-type]
    network.digest = "another"
    with pytest.raises(InputError, match="belongs to another network"):
        load_whitening(path, network, flip=True)  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="damaged"):
        load_whitening(path, network, flip=True)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"none cannot be read \(No such file"):
        load_whitening(tmp_path / "none", network, flip=True)  # type: ignore[arg-type]
    for array in (np.zeros(()), np.zeros(3), np.zeros((16, 1))):
        odd = Whitening(array, array, array, 0.1, 120)
        save_whitening(path, odd, "another", flip=True)
        with pytest.raises(InputError, match="do not fit the network"):
            load_whitening(path, network, flip=True)  # type: ignore[arg-type]
    bad = Whitening(np.full(16, np.nan), whitening.gallery_mean, whitening.matrix, 0.1, 120)
    save_whitening(path, bad, "another", flip=True)
    with pytest.raises(InputError, match="not finite"):
        load_whitening(path, network, flip=True)  # type: ignore[arg-type]
