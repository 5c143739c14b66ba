"""Any networks under the project's own protocol: the same images, the same halves, the same metrics."""

import io
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
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
from dgrl.evaluation.evaluate import evaluate_embeddings, with_keys
from dgrl.evaluation.params import EvaluateParams
from dgrl.evaluation.ranking import Embeddings
from dgrl.files import atomic_file
from dgrl.images import Image
from dgrl.mlr.degrade import Entry, degradation, make_row
from dgrl.mlr.protocol import MlrParams, Split, plan_split, seen_by_lr_camera
from dgrl.progress import track
from dgrl.superres.upscale import bicubic
from dgrl.tables import read_keys, read_rows
from pipeline.params import Params
from pipeline.paths import Paths
from pipeline.results import official_splits

Upscale = Literal["none", "bicubic"]
Features = npt.NDArray[np.float32]
CHUNK = 256  # images in memory

logger = logging.getLogger(__name__)


class View(NamedTuple):
    """An image as a network sees it."""

    image_id: str
    factor: int
    resolution: Resolution


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


def compare(
    models: Sequence[str],
    datasets: Sequence[str],
    params: Params,
    *,
    trials: int = 10,
    adapt: bool = False,
    upscale: Upscale = "none",
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
        flip: embed an image as the sum of itself and its mirror image.

    Returns:
        For each dataset and network the plain result, and the adapted one where that is wanted.

    Raises:
        InputError: if a network cannot be read, or was trained on a person whom it would be tested on or
            adapted with.
    """
    networks = [load_embedder(*parse_model(model), flip=flip) for model in models]
    results = []
    for dataset in datasets:
        plans = _plans(dataset, params.mlr, trials)
        views = sorted({view for plan in plans for view in plan.views(adapt)})
        for network in networks:
            for plan in plans:
                plan.check(network, adapt)
            found, seconds = _embed(network, dataset, views, params, upscale)
            speed = 1000 * seconds / len(views)
            for whitened in (False, True) if adapt else (False,):
                results.append(_measure(network, plans, found, whitened, speed))
                shown = results[-1].mean["rank1"], results[-1].std["rank1"]
                logger.info(
                    "%s on %s%s: Rank-1 %.1f, deviation %.1f over %d trials",
                    network.name, dataset, ", adapted" if whitened else "", *shown, trials,
                )  # fmt: skip
    return results


@dataclass(frozen=True)
class Plan:
    """A trial: the rows of queries, gallery, and of the training persons' images for the adaptation.

    Attributes:
        dataset: its name.
        trial: its number.
        sides: by name the keys of the rows, with a column ``view``.
    """

    dataset: str
    trial: int
    sides: dict[str, pd.DataFrame]

    def views(self, adapt: bool) -> Iterator[View]:
        """What is to be embedded."""
        for name in ("query", "gallery", *(("train_query", "train_gallery") if adapt else ())):
            yield from self.sides[name]["view"]

    def check(self, network: Embedder, adapt: bool) -> None:
        """Refuse a network that knows a person of the trial already."""
        for name, wanted in (("query", "tested on"), ("train_query", "adapted with")):
            persons = set(self.sides[name].person_id)
            known = sum(f"{self.dataset}/{person}" in network.trained_on for person in persons)
            if known and (adapt or name == "query"):
                raise InputError(
                    f"{network.name} was trained on {known} of the {len(persons)} persons of {self.dataset} "
                    f"that it would be {wanted} in trial {self.trial}; choose the trials that it did not "
                    "see, or train it with train.held_out or on another dataset"
                )

    def embeddings(
        self, names: tuple[str, str], found: dict[View, Features]
    ) -> tuple[Embeddings, Embeddings]:
        """The features of two sides, with common codes of persons and cameras."""
        (query, query_keys), (gallery, gallery_keys) = (
            (np.stack([found[view] for view in self.sides[name]["view"]]), self.sides[name]) for name in names
        )
        return with_keys(query, query_keys, gallery, gallery_keys)


def _plans(dataset: str, params: MlrParams, trials: int) -> list[Plan]:
    """Who is who in each trial."""
    keys = read_keys(Paths(dataset).images)
    official = official_splits(dataset)
    plans = []
    for trial in range(trials):
        drawn = params.model_copy(update={"trial": trial})
        split = plan_split(keys, dataset, drawn, official)
        plans.append(Plan(dataset, trial, _sides(keys, split, dataset, drawn)))
    return plans


def _sides(keys: pd.DataFrame, split: Split, dataset: str, params: MlrParams) -> dict[str, pd.DataFrame]:
    rows: dict[str, list[tuple[str, View]]] = {
        name: [] for name in ("query", "gallery", "train_query", "train_gallery")
    }
    is_lr = dict(zip(keys.image_id, seen_by_lr_camera(keys, dataset, params), strict=True))
    for image_id, entries in split.entries.items():
        for table, factor in {(entry.table, entry.factor) for entry in entries}:
            if table in ("query", "gallery"):
                resolution: Resolution = "lr" if table == "query" else "hr"
                rows[table].append((image_id, View(image_id, factor, resolution)))
            elif table == "train_lr" and is_lr[image_id]:
                rows["train_query"].append((image_id, View(image_id, factor, "lr")))
            elif table == "train_hr" and not is_lr[image_id]:
                rows["train_gallery"].append((image_id, View(image_id, factor, "hr")))
    by_id = keys.set_index("image_id")
    sides = {}
    for name, found in rows.items():
        sides[name] = by_id.loc[[image_id for image_id, _ in found]]
        sides[name]["view"] = pd.Series([view for _, view in found], sides[name].index, dtype=object)
    return sides


def _embed(
    network: Embedder, dataset: str, views: Sequence[View], params: Params, upscale: Upscale
) -> tuple[dict[View, Features], float]:
    """The embedding of each view, and the seconds that the network took."""
    made = _images(dataset, views, params, upscale)
    features: dict[View, Features] = {}
    seconds = 0.0
    shown = iter(track(made, f"embed {dataset} by {network.name}", len(views), "image"))
    while chunk := list(islice(shown, CHUNK)):
        for resolution in ("hr", "lr"):
            chosen = [(view, image) for view, image in chunk if view.resolution == resolution]
            started = time.perf_counter()
            embedded = network.embed([image for _, image in chosen], resolution)
            seconds += time.perf_counter() - started
            features |= dict(zip([view for view, _ in chosen], embedded, strict=True))
    return features, seconds


def _images(
    dataset: str, views: Sequence[View], params: Params, upscale: Upscale
) -> Iterator[tuple[View, Image]]:
    wanted: dict[str, list[View]] = {}
    for view in views:
        wanted.setdefault(view.image_id, []).append(view)
    how = degradation(params.mlr.recipe, params.mlr.kernel, params.mlr.jpeg_quality)
    for row in read_rows(Paths(dataset).images):
        for view in wanted.get(row.image_id, ()):
            pixels = make_row(row, Entry("query", row.image_id, view.factor), how).pixels()
            if upscale == "bicubic" and view.factor > 1:
                pixels = bicubic(pixels, view.factor)
            yield view, pixels


def _measure(
    network: Embedder, plans: Sequence[Plan], found: dict[View, Features], whitened: bool, speed: float
) -> Result:
    metrics, shrinkage = [], []
    for plan in plans:
        query, gallery = plan.embeddings(("query", "gallery"), found)
        if whitened:
            whitening: Whitening = fit(*plan.embeddings(("train_query", "train_gallery"), found))
            shrinkage.append(whitening.shrinkage)
            query, gallery = adapted(whitening, query, gallery)
        factors = np.array([view.factor for view in plan.sides["query"]["view"]])
        metrics.append(evaluate_embeddings(query, gallery, factors, EvaluateParams())[1])
    table = pd.DataFrame(metrics)
    return Result(
        network.name,
        plans[0].dataset,
        whitened,
        len(plans),
        {str(name): value for name, value in table.mean().items()},
        {str(name): value for name, value in table.std(ddof=1).fillna(0.0).items()},
        speed,
        network.megabytes,
        shrinkage,
    )


def write(folder: Path, results: Sequence[Result]) -> str:
    """Write ``compare.json``, ``compare.md`` and ``compare.svg`` into a folder; returns the Markdown."""
    text = markdown(results)
    content = json.dumps([asdict(result) for result in results], indent=1) + "\n"
    for name, written in {"json": content, "md": text, "svg": _plot(results)}.items():
        with atomic_file(folder / f"compare.{name}") as file:
            file.write_text(written, encoding="utf-8")
    return text


def markdown(results: Sequence[Result]) -> str:
    """A table per dataset: single-shot Rank-k, multi-shot ones where they differ, mAP, mINP, factors."""
    parts = []
    for dataset in dict.fromkeys(result.dataset for result in results):
        chosen = [result for result in results if result.dataset == dataset]
        names = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}
        if any(result.mean["multi_shot.rank1"] - result.mean["rank1"] > 1e-6 for result in chosen):
            names |= {f"multi_shot.rank{k}": f"multi-shot Rank-{k}" for k in (1, 5, 10)}
        factors = sorted({name for result in chosen for name in result.mean if name.startswith("factor")})
        names |= {name: f"Rank-1 at r = {name[6:].split('.')[0]}" for name in factors}
        rows = [
            {
                "network": result.network,
                "adapted": "whiten" if result.adapted else "",
                **{title: _cell(result, name) for name, title in names.items()},
                "ms/image": f"{result.milliseconds:.1f}",
                "MB": f"{result.megabytes:.1f}",
            }
            for result in chosen
        ]
        table = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
        parts.append(
            f"{dataset}, {chosen[0].trials} trials, percent, mean ± standard deviation over trials; Rank-k "
            f"is single-shot.\n\n{table}\n"
        )
    return "\n".join(parts)


def _cell(result: Result, name: str) -> str:
    if name not in result.mean:
        return ""
    deviation = f" ± {result.std[name]:.1f}" if result.trials > 1 else ""
    return f"{result.mean[name]:.1f}{deviation}"


def _plot(results: Sequence[Result]) -> str:
    """Rank-1 against the time an image takes, as SVG; the same results give the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for marker, dataset in zip("osD^v", dict.fromkeys(each.dataset for each in results), strict=False):
        for result in results:
            if result.dataset == dataset:
                filled = "C0" if result.adapted else "none"
                axes.errorbar(
                    result.milliseconds, result.mean["rank1"], result.std["rank1"],
                    fmt=marker, color="C0", markerfacecolor=filled, capsize=3,
                )  # fmt: skip
                label = f"{result.network}{', whitened' if result.adapted else ''} ({dataset})"
                place = (result.milliseconds, result.mean["rank1"])
                axes.annotate(label, place, (6, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="milliseconds an image", ylabel="Rank-1, single-shot, percent")
    axes.margins(x=0.3)
    axes.grid(alpha=0.3)
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "compare"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
