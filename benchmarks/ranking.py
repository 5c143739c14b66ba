"""How fast queries are ranked, from features to metrics, beside torchreid and fast-reid, in how much memory.

python benchmarks/ranking.py TORCHREID [FASTREID]     (checkouts, or an unpacked sdist of torchreid)
python benchmarks/ranking.py TORCHREID --million      (also a gallery of a million images)

The set has Market-1501's size: 3,368 queries, 15,913 gallery images (2,798 of them distractors) of 750
persons by 6 cameras, 512 dimensions, drawn from a seed: in loose clusters as an easy set and a hard one.
Ours includes the exact single-shot CMC, which the peers have not. A peer's time is that of the distance
matrix (torchreid's: fast-reid's module wants faiss, and computes the same) and of its evaluate_rank. To
compare metrics all rank the same similarities; then only roundings differ. The peers' extensions are built in
a temporary folder, if source and Cython are there.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from measure import best, in_a_child, peak, resident, timed

from dgrl.evaluation.ranking import DISTRACTOR, Embeddings, Ranking, rank
from dgrl.random import named_generator

Matrix = npt.NDArray[np.float32]
Product = Callable[[torch.Tensor, torch.Tensor, str], torch.Tensor]

QUERIES, GALLERY, DISTRACTORS, PERSONS, CAMERAS = 3368, 15913, 2798, 750, 6
DIMENSIONS, LATENT = 512, 32
EASY, HARD = 0.6, 1.0  # how far a person's images spread; the persons themselves 1
LENGTH = 20
MILLION, MILLIONS_PERSONS, MILLIONS_QUERIES = 1_000_000, 50_000, 300


class Crowd:
    """Images of persons, around one point a person, shifted by camera, in few of the dimensions."""

    def __init__(self, persons: int, spread: float) -> None:
        self.generator = named_generator("benchmark ranking", persons)
        self.spread = spread
        self.persons = self.generator.normal(size=(persons, LATENT))
        self.cameras = self.generator.normal(0, 0.3, (CAMERAS, LATENT))
        self.basis = self.generator.normal(size=(LATENT, DIMENSIONS)).astype(np.float32)

    def images(self, person_ids: Any, camera_ids: Any) -> Embeddings:
        features = np.empty((len(person_ids), DIMENSIONS), np.float32)
        for start in range(0, len(features), 1000):
            rows = slice(start, start + 1000)
            nobody = (person_ids[rows] == DISTRACTOR)[:, None]
            centres = self.persons[person_ids[rows]]
            centres = np.where(nobody, self.generator.normal(size=centres.shape), centres)
            noise = self.generator.normal(0, self.spread, centres.shape)
            points = (centres + self.cameras[camera_ids[rows]] + noise).astype(np.float32) @ self.basis
            features[rows] = points / np.linalg.norm(points, axis=1, keepdims=True)
        return Embeddings(features, person_ids, camera_ids)


def market_like(spread: float) -> tuple[Embeddings, Embeddings]:
    """Query and gallery; persons have from 2 to some 70 gallery images, and a query for most cameras."""
    crowd = Crowd(PERSONS, spread)
    generator = crowd.generator
    weights = generator.gamma(2.0, size=PERSONS) + 0.2
    spare = GALLERY - DISTRACTORS - 2 * PERSONS
    sizes = 2 + generator.multinomial(spare, weights / weights.sum())
    shown = np.repeat(np.arange(PERSONS), sizes)
    persons = generator.permutation(np.concatenate([shown, np.full(DISTRACTORS, DISTRACTOR)]))
    seen = generator.permutation(PERSONS * CAMERAS)[:QUERIES]
    gallery = crowd.images(persons, generator.integers(0, CAMERAS, GALLERY))
    return crowd.images(seen // CAMERAS, seen % CAMERAS), gallery


def million() -> tuple[Embeddings, Embeddings]:
    crowd = Crowd(MILLIONS_PERSONS, EASY)
    ids = crowd.generator.permutation(np.arange(MILLION) % MILLIONS_PERSONS)
    gallery = crowd.images(ids, crowd.generator.integers(0, CAMERAS, MILLION))
    chosen = crowd.generator.integers(0, MILLIONS_PERSONS, MILLIONS_QUERIES)
    return crowd.images(chosen, crowd.generator.integers(0, CAMERAS, MILLIONS_QUERIES)), gallery


def metrics(ranking: Ranking) -> str:
    found = ranking.metrics()
    return ", ".join(f"{name} {found[name]:.2f}" for name in ("rank1", "multi_shot.rank1", "mAP", "mINP"))


def load(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(file)
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the extension is not built
        spec.loader.exec_module(module)
    return module


def build_extension(source: Path, folder: Path) -> ModuleType:
    """A peer's Cython code, built in a copy.

    Raises:
        RuntimeError: in one line, why it cannot be.
    """
    if not (source / "rank_cy.pyx").exists():
        raise RuntimeError(f"{source} has no rank_cy.pyx (the sdist lacks it, a checkout has it)")
    shutil.copytree(source, folder, dirs_exist_ok=True)
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return load(next(folder.glob("rank_cy*.so")), "rank_cy")


class Peer:
    """The ranking of torchreid or of fast-reid, which comes from it, loaded from its file alone."""

    def __init__(self, name: str, file: Path, folder: Path) -> None:
        self.name = name
        self.rank = load(file, f"{name}_rank")
        self.kinds = ["Python"]
        try:
            self.rank.evaluate_cy = build_extension(file.parent / "rank_cylib", folder).evaluate_cy  # type: ignore[attr-defined]
            self.rank.IS_CYTHON_AVAI = True  # type: ignore[attr-defined]
            self.kinds.insert(0, "Cython")
        except RuntimeError as reason:
            print(f"not measured: the Cython ranking of {name}, because {reason}")

    def evaluate(self, distances: Matrix, query: Embeddings, gallery: Embeddings, kind: str) -> list[float]:
        """CMC, mAP and, of fast-reid, mINP, from 0 to 1."""
        ids = query.person_ids, gallery.person_ids, query.camera_ids, gallery.camera_ids
        cmc, *others = self.rank.evaluate_rank(distances, *ids, max_rank=LENGTH, use_cython=kind == "Cython")
        return [*cmc, *(float(np.mean(each)) for each in others)]


def rank_file(root: Path, where: str) -> Path:
    files = sorted(root.rglob(where))
    if not files:
        raise SystemExit(f"no {where} below {root}; give a checkout")
    return files[0]


def compare(peers: list[Peer], product: Product, spread: float, *, python: bool) -> None:
    query, gallery = market_like(spread)
    ours, ranking = best(lambda: rank(query, gallery))
    print(f"spread {spread}: {metrics(ranking)}")
    print(f"  ours {ours:.2f} s")
    features, others = (torch.from_numpy(side.features) for side in (query, gallery))
    multiplying, distances = best(lambda: np.asarray(product(features, others, "cosine")))
    same = rank(query, gallery, similarity=lambda rows: -distances[rows], cmc_length=LENGTH, tie=0)
    expected = np.array([*same.cmc, same.mean_ap, same.mean_inp]) / 100
    contests = [(peer, kind) for peer in peers for kind in peer.kinds if python or kind != "Python"]
    for peer, kind in contests:
        repeats = 1 if kind == "Python" else 3
        seconds, found = best(partial(peer.evaluate, distances, query, gallery, kind), repeats)
        seconds += multiplying
        apart = np.abs(expected[: len(found)] - found).max()
        print(f"  {peer.name}, {kind}, {seconds:.2f} s, of which distances {multiplying:.2f} s: ", end="")
        print(f"{seconds / ours:.1f} times ours; ", end="")
        print(f"metrics, from 0 to 1, differ by {apart:.0e} at most")


def report_memory(make: Callable[..., tuple[Embeddings, Embeddings]], *args: float) -> None:
    seconds, found, size, before, peak = in_a_child(ranked_alone, make, *args)
    print(f"{size}: {seconds:.2f} s, {peak:.0f} MB resident at most, {peak - before:.0f} MB of it ", end="")
    print(f"more than before; {found}")


def ranked_alone(
    make: Callable[..., tuple[Embeddings, Embeddings]], *args: float
) -> tuple[float, str, str, float, float]:
    """Seconds, metrics and size of one ranking, resident MB before and at most."""
    query, gallery = make(*args)
    before = resident().total
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    seconds, ranking = timed(lambda: rank(query, gallery))
    size = f"{len(query.features)} x {len(gallery.features)} x {gallery.features.shape[1]}"
    return seconds, metrics(ranking), size, before, peak()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("torchreid", type=Path)
    parser.add_argument("fastreid", type=Path, nargs="?")
    parser.add_argument("--million", action="store_true", help="also rank a gallery of a million images")
    options = parser.parse_args()
    torchreid = rank_file(options.torchreid, "metrics/rank.py")
    files = {"torchreid": torchreid}
    if options.fastreid:
        files["fastreid"] = rank_file(options.fastreid, "evaluation/rank.py")
    product = load(torchreid.with_name("distance.py"), "distance").compute_distance_matrix
    with tempfile.TemporaryDirectory() as folder:
        peers = [Peer(name, file, Path(folder, name)) for name, file in files.items()]
        compare(peers, product, EASY, python=True)
        compare(peers, product, HARD, python=False)  # a minute or more, for the same ratio
    report_memory(market_like, EASY)
    report_memory(market_like, HARD)
    if options.million:
        report_memory(million)


if __name__ == "__main__":
    main()
