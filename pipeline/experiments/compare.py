"""Any networks under the project's own protocol: the same images, splits of the persons, and metrics."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from dgrl.embedders.catalog import load_embedder, parse_model
from dgrl.embedders.protocol import Embedder, Resolution
from dgrl.errors import InputError
from dgrl.evaluation.adaptation import Whitening, adapted, fit
from dgrl.evaluation.calibration import calibrate
from dgrl.evaluation.evaluate import evaluate_embeddings
from dgrl.evaluation.keys import with_keys
from dgrl.evaluation.params import EvaluateParams
from dgrl.evaluation.ranking import Embeddings
from dgrl.images import Image
from dgrl.mlr.degrade import Entry, make_row
from dgrl.mlr.protocol import MlrParams, Split, plan_split, seen_by_lr_camera
from dgrl.progress import track
from dgrl.superres.upscale import bicubic, enlarge, load_rcans
from dgrl.tables import read_keys, read_rows
from pipeline.params import Params
from pipeline.paths import Paths
from pipeline.results import official_splits, read_json

Upscale = Literal["none", "bicubic", "rcan"]
Upscaler = Callable[[Image, int], Image]  # an LR image and its factor
Features = npt.NDArray[np.float32]
CHUNK = 256  # images in memory

logger = logging.getLogger(__name__)


class Variant(NamedTuple):
    """An image at one down-sampling factor; 1 = as it is."""

    image_id: str
    factor: int
    resolution: Resolution  # lr: as a query; hr: as a gallery image


@dataclass(frozen=True)
class Result:
    """A network on a dataset.

    Attributes:
        network: its name.
        dataset: as in params.yaml.
        adapted: whether a whitening fitted on the training persons follows the network.
        trials: of the split.
        mean: of each metric over the trials, percent.
        std: sample standard deviation; 0 for one trial.
        milliseconds: an image, decoding and down-sampling left out.
        megabytes: of its file.
        shrinkage: lambda of each trial.
        evaluate_on: whose images were measured, as in the section ``mlr``.
    """

    network: str
    dataset: str
    adapted: bool
    trials: int
    mean: dict[str, float]
    std: dict[str, float]
    milliseconds: float
    megabytes: float
    shrinkage: list[float]
    evaluate_on: str = "test"


def compare(
    models: Sequence[str],
    datasets: Sequence[str],
    params: Params,
    *,
    trials: int = 10,
    adapt: bool = False,
    upscale: Upscale = "none",
    rcan: Path | None = None,
    flip: bool = True,
) -> list[Result]:
    """Measure networks on the MLR sets that ``mlr:`` of params.yaml describes.

    Args:
        models: ``PATH``, or ``PATH@PREPROCESSING`` for a file that does not say its preprocessing.
        datasets: names; their images must have been downloaded.
        params: params.yaml.
        trials: ``mlr.trial`` 0 to ``trials`` - 1.
        adapt: also whiten, with lambda and whitening from the training persons of each trial.
        upscale: what is done to an LR image before the network resizes it to its input.
        rcan: for ``upscale="rcan"``: a folder ``data/<dataset>/rcan`` with the RCAN of each factor.
        flip: embed an image as the sum of itself and its mirror image.

    Returns:
        For each dataset and network the plain result, and the adapted one where that is wanted.

    Raises:
        InputError: if a network cannot be read, or was trained on a person whom it would be tested on or
            adapted with; if an RCAN was trained on a person of a test.
    """
    upscaler = _upscaler(upscale, rcan)
    networks = [load_embedder(*parse_model(model), flip=flip) for model in models]
    names = [network.name for network in networks]
    for network, model in zip(networks, models, strict=True):
        if names.count(network.name) > 1:  # the files of all runs are called model.safetensors
            network.name = model
    drawn = {dataset: _trials(dataset, params.mlr, trials) for dataset in datasets}
    for trial in (trial for each in drawn.values() for trial in each):  # before any is embedded with
        for network in networks:
            trial.check(network, adapt)
        if rcan is not None:
            trial.check_rcan(rcan)
    results = []
    for dataset, its_trials in drawn.items():
        variants = sorted({variant for trial in its_trials for variant in trial.variants(adapt)})
        for network in networks:
            features, seconds = _embed(network, dataset, variants, params, upscaler)
            for whitened in (False, True) if adapt else (False,):
                result = _measure(
                    network, its_trials, features, whitened, 1000 * seconds / len(variants),
                    params.mlr.evaluate_on,
                )  # fmt: skip
                logger.info(
                    "%s on %s%s: Rank-1 %.1f, deviation %.1f over %d trials",
                    network.name, dataset, ", adapted" if whitened else "",
                    result.mean["rank1"], result.std["rank1"], trials,
                )  # fmt: skip
                results.append(result)
    return results


@dataclass(frozen=True)
class Trial:
    """One split of the persons.

    Attributes:
        dataset: its name.
        number: ``mlr.trial``.
        tables: the keys of query, gallery, and, for the adaptation, of the training persons' images by the LR
            camera (train_query) and by the others (train_gallery); with a column ``variant``.
    """

    dataset: str
    number: int
    tables: dict[str, pd.DataFrame]

    def variants(self, adapt: bool) -> Iterator[Variant]:
        """What is to be embedded."""
        for name in ("query", "gallery", *(("train_query", "train_gallery") if adapt else ())):
            yield from self.tables[name]["variant"]

    def check(self, network: Embedder, adapt: bool) -> None:
        """Refuse a network that was trained on a person of the trial."""
        for name, wanted in (("query", "tested on"), ("train_query", "adapted with")):
            persons = set(self.tables[name].person_id)
            known = sum(f"{self.dataset}/{person}" in network.trained_on for person in persons)
            if known and (adapt or name == "query"):
                raise InputError(
                    f"{network.name} was trained on {known} of the {len(persons)} persons of {self.dataset} "
                    f"that it would be {wanted} in trial {self.number}; choose the trials that it did not "
                    "see, or train it with train.held_out or on another dataset"
                )

    def check_rcan(self, folder: Path) -> None:
        """Refuse RCANs of this dataset that were trained on a test person of the trial."""
        split = folder.parent / "mlr/split.json"  # beside the RCANs that stage pretrain_sr trained
        if folder.resolve().parent.name != self.dataset or not split.exists():
            return
        trained = set(read_json(split)["train_persons"])
        known = len(trained & set(self.tables["query"].person_id))
        if known:
            raise InputError(
                f"{folder} was trained on {known} persons of {self.dataset} whose images trial {self.number} "
                "tests with; give --rcan of another dataset, or --trials 1 where mlr.trial is 0"
            )

    def embeddings(
        self, query: str, gallery: str, features: dict[Variant, Features]
    ) -> tuple[Embeddings, Embeddings]:
        """Those of two tables, with common codes of persons and cameras."""
        keys = self.tables[query], self.tables[gallery]
        rows = [np.stack([features[variant] for variant in each["variant"]]) for each in keys]
        return with_keys(rows[0], keys[0], rows[1], keys[1])


def _upscaler(upscale: Upscale, folder: Path | None) -> Upscaler | None:
    """What enlarges an LR image; None: nothing does."""
    if (upscale == "rcan") != (folder is not None):
        raise InputError("--upscale rcan and --rcan DIR go together; give both, or neither")
    if folder is None:
        return bicubic if upscale == "bicubic" else None
    networks = load_rcans(folder)

    def by_rcan(image: Image, factor: int) -> Image:
        if factor not in networks:
            raise InputError(
                f"{folder} has no RCAN x{factor} (has {sorted(networks)}); add it to rcan.scales"
            )
        return next(enlarge([image], networks[factor]))

    return by_rcan


def _trials(dataset: str, params: MlrParams, count: int) -> list[Trial]:
    keys = read_keys(Paths(dataset).images)
    official = official_splits(dataset)
    trials = []
    for number in range(count):
        drawn = params.model_copy(update={"trial": number})
        split = plan_split(keys, dataset, drawn, official)
        trials.append(Trial(dataset, number, _tables(keys, split, dataset, drawn)))
    return trials


def _tables(keys: pd.DataFrame, split: Split, dataset: str, params: MlrParams) -> dict[str, pd.DataFrame]:
    """``Trial.tables``, from what the split makes of each image."""
    variants: dict[str, list[Variant]] = {
        name: [] for name in ("query", "gallery", "train_query", "train_gallery")
    }
    is_lr = dict(zip(keys.image_id, seen_by_lr_camera(keys, dataset, params), strict=True))
    for image_id, entries in split.entries.items():
        for table, factor in sorted({(entry.table, entry.factor) for entry in entries}):
            resolution: Resolution = "lr" if table in ("query", "train_lr") else "hr"
            variant = Variant(image_id, factor, resolution)
            if table in ("query", "gallery"):
                variants[table].append(variant)
            elif is_lr[image_id] == (resolution == "lr"):
                variants["train_query" if is_lr[image_id] else "train_gallery"].append(variant)
    by_id = keys.set_index("image_id")
    tables = {}
    for name, chosen in variants.items():
        tables[name] = by_id.loc[[variant.image_id for variant in chosen]]
        tables[name]["variant"] = pd.Series(chosen, tables[name].index, dtype=object)
    return tables


def _embed(
    network: Embedder, dataset: str, variants: Sequence[Variant], params: Params, upscaler: Upscaler | None
) -> tuple[dict[Variant, Features], float]:
    """The embedding of each variant, and the seconds that the network took."""
    made = _images(dataset, variants, params, upscaler)
    features: dict[Variant, Features] = {}
    seconds = 0.0
    shown = iter(track(made, f"embed {dataset} by {network.name}", len(variants), "image"))
    while chunk := list(islice(shown, CHUNK)):
        for resolution in ("hr", "lr"):
            chosen = [(variant, image) for variant, image in chunk if variant.resolution == resolution]
            started = time.perf_counter()
            embedded = network.embed([image for _, image in chosen], resolution)
            seconds += time.perf_counter() - started
            features |= dict(zip([variant for variant, _ in chosen], embedded, strict=True))
    return features, seconds


def _images(
    dataset: str, variants: Sequence[Variant], params: Params, upscaler: Upscaler | None
) -> Iterator[tuple[Variant, Image]]:
    wanted: dict[str, list[Variant]] = {}
    for variant in variants:
        wanted.setdefault(variant.image_id, []).append(variant)
    for row in read_rows(Paths(dataset).images):
        for variant in wanted.get(row.image_id, ()):
            entry = Entry("query", row.image_id, variant.factor)
            pixels = make_row(row, entry, params.mlr.degradation).pixels()
            if upscaler and variant.factor > 1:
                pixels = upscaler(pixels, variant.factor)
            yield variant, pixels


def _measure(
    network: Embedder,
    trials: Sequence[Trial],
    features: dict[Variant, Features],
    whitened: bool,
    milliseconds: float,
    evaluate_on: str,
) -> Result:
    metrics, shrinkage = [], []
    for trial in trials:
        query, gallery = trial.embeddings("query", "gallery", features)
        if whitened:
            whitening: Whitening = fit(*trial.embeddings("train_query", "train_gallery", features))
            shrinkage.append(whitening.shrinkage)
            query, gallery = adapted(whitening, query, gallery)
        factors = np.array([variant.factor for variant in trial.tables["query"]["variant"]])
        measured = evaluate_embeddings(query, gallery, factors, EvaluateParams())[1]
        metrics.append(measured | calibrate(query, gallery, factors, network.digest)[1])
    table = pd.DataFrame(metrics)
    return Result(
        network.name,
        trials[0].dataset,
        whitened,
        len(trials),
        {str(name): value for name, value in table.mean().items()},
        {str(name): value for name, value in table.std(ddof=1).fillna(0.0).items()},
        milliseconds,
        network.megabytes,
        shrinkage,
        evaluate_on,
    )
