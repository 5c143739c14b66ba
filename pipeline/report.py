"""The report of stage evaluate: what it shows, gathered from the stages' files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dgrl.evaluation.params import EvaluateParams
from dgrl.evaluation.ranking import Embeddings, Ranking, nearest
from dgrl.image_bank import ImageBank
from dgrl.images import Image
from dgrl.model.network import DGRL, Stream
from dgrl.report.activation import activation_maps, overlay
from dgrl.report.breakdown import by_camera_pair, by_factor, similarities
from dgrl.report.choose import choose_examples
from dgrl.report.plots import Plot, Series, plot
from dgrl.report.render import Example, Match, Report, label, render
from dgrl.report.restoration import Panel, restoration
from dgrl.report.sheets import write_sheets
from dgrl.tables import read_keys, read_rows, shards
from pipeline.experiments.paper import DATASET_TITLES, published_metrics
from pipeline.origin import every_option, origin, rounded
from pipeline.paths import Paths
from pipeline.results import read_json

MATCHES = 10  # of a query
_RATE = "0.01"  # of false matches
CALIBRATED = "calibration.ece"  # the metric that there is where pairs were enough
HEADLINE = ["rank1", "rank5", "rank10", "mAP", "mINP"]


@dataclass(frozen=True)
class Evaluation:
    """What the stage computed.

    Args:
        query_bank: the queries' images and keys.
        gallery_bank: the gallery's.
        query: embeddings.
        gallery: likewise.
        ranking: of them.
        untrained: that of random weights, if wanted.
        metrics: by name, in percent.
        thresholds: of the similarity, by false-match rate; empty without a calibration.
    """

    query_bank: ImageBank
    gallery_bank: ImageBank
    query: Embeddings
    gallery: Embeddings
    ranking: Ranking
    untrained: Ranking | None
    metrics: Mapping[str, float]
    thresholds: Mapping[str, float]


def write_report(folder: Path, paths: Paths, found: Evaluation, model: DGRL, params: EvaluateParams) -> None:
    """Write ``report.html`` and ``ranked/*.png`` into ``folder``."""
    split, sr, config = map(read_json, (paths.split, paths.sr_options, paths.config))
    options = every_option(paths, params, split, sr, config)
    chosen = choose_examples(found.ranking, params.examples, params.seed)
    rows = [row for group in chosen.values() for row in group]
    images = _images(paths, found, rows)
    examples = _examples(found, rows, images, model)
    write_sheets(folder / "ranked", examples)
    ids = found.query_bank.keys.image_id.tolist()
    tables = _tables(found)
    report = Report(
        title=f"DGRL on {DATASET_TITLES.get(paths.dataset, paths.dataset)}",
        summary=_summary(found, len(split["left_out_queries"])),
        headline=headline(found.metrics, paths.dataset),
        notes=[
            *_notes(paths.dataset, options, calibrated=CALIBRATED in found.metrics),
            f"dgrl against {paths.dataset} sets an earlier run beside this one.",
        ],
        tables=tables,
        plots=_plots(found, paths, config),
        examples={
            f"{group.capitalize()} queries": [examples[ids[row]] for row in group_rows]
            for group, group_rows in chosen.items()
            if group_rows
        },
        restorations=_restorations(found, rows, images, options["sr.method"]),
        metrics=rounded(found.metrics),
        options=options,
        origin=origin(paths, split["digests"], config),
    )
    (folder / "report.html").write_text(render(report), encoding="utf-8")


def _summary(found: Evaluation, left_out: int) -> str:
    query, gallery = found.query_bank.keys, found.gallery_bank.keys
    text = (
        f"{len(query):,} low-resolution queries of {query.person_id.nunique():,} persons by camera "
        f"{', '.join(_few(query.camera_id))} against {len(gallery):,} high-resolution gallery images by "
        f"{', '.join(_few(gallery.camera_id))}."
    )
    if left_out:
        text += f" {left_out:,} queries are left out, as their persons have no gallery image."
    return text


def _few(names: "pd.Series[str]", most: int = 6) -> list[str]:
    found = sorted(set(names))
    return found if len(found) <= most else [*found[:most], f"{len(found) - most} more"]


def headline(metrics: Mapping[str, float], dataset: str) -> pd.DataFrame:
    """A row for each way to rank, and the paper's; factors have a table of their own."""
    rows = {}
    for way in [name.removesuffix("rank1").rstrip(".") for name in metrics if name.endswith("rank1")]:
        if not way.startswith("factor"):
            whole = way.removesuffix("multi_shot").rstrip(".")  # whose mAP and mINP are those of both
            prefixes = [way] * 3 + [whole] * 2
            names = [f"{prefix}.{name}" for prefix, name in zip(prefixes, HEADLINE, strict=True)]
            words = ", ".join(map(label, filter(None, way.split("."))))
            rows[words or "single-shot"] = [metrics.get(name.lstrip("."), np.nan) for name in names]
    if published := published_metrics(dataset):
        rows["DGRL (paper)"] = [*published, np.nan, np.nan]
    return pd.DataFrame.from_dict(rows, "index", columns=HEADLINE)


def _notes(dataset: str, options: Mapping[str, Any], *, calibrated: bool) -> list[str]:
    notes = [
        "Percent. Rank-k is single-shot, expected over all galleries of one image per person, unless the row "
        "says multi-shot. mAP and mINP rank the whole gallery."
    ]
    if calibrated:
        notes.append(
            "Same person or not: ECE is the mean error of the calibrated probability on persons that it was "
            "not fitted on; TPR the share of true pairs above the threshold that a share FMR of the false "
            "exceeds, with its 95 % interval over persons. x2 and so on: the queries of that factor."
        )
    if published_metrics(dataset) and options["mlr.evaluate_on"] != "test":
        notes.append("These are held-out training persons; the paper's metrics are of its test persons.")
    if "kept.epoch" in options:
        why = f"{options['kept.by']}, {options['kept.mAP']:.1f} %"
        notes.append(f"The weights are those of epoch {options['kept.epoch']}, kept for its {why}.")
    return notes


def _tables(found: Evaluation) -> dict[str, pd.DataFrame]:
    queries, gallery = found.query_bank.keys, found.gallery_bank.keys
    factors = by_factor(found.ranking, queries.factor.to_numpy())
    cameras = queries.camera_id.to_numpy(object), gallery.camera_id.to_numpy(object)
    pairs, count = by_camera_pair(found.query, found.gallery, *cameras)
    shown = f", the {len(pairs)} with the most queries of {count}" if count > len(pairs) else ""
    tables = {"By down-sampling factor": factors, f"By camera pair{shown}": pairs}
    if CALIBRATED in found.metrics:
        tables |= _calibration_tables(found.metrics)
    return tables


def _calibration_tables(metrics: Mapping[str, float]) -> dict[str, pd.DataFrame]:
    """Calibration error, and true pairs accepted at two rates of false ones with their 95 % intervals."""
    groups = [name.removesuffix(".ece") for name in metrics if name.endswith(".ece")]
    names = ["all" if group == "calibration" else f"x{group.removeprefix('factor')}" for group in groups]
    errors = pd.DataFrame({"ECE": [metrics[f"{group}.ece"] for group in groups]}, names)
    rates = {}
    for rate in ("1e-2", "1e-3"):
        columns = {f"TPR at FMR {rate}": "", "from": "_low", "to": "_high"}
        found = {
            title: [metrics.get(f"{group}.tpr_at_{rate}{end}", np.nan) for group in groups]
            for title, end in columns.items()
        }
        rates[rate] = pd.DataFrame(found, names)
    return {
        "Same person or not": errors.join(rates["1e-2"]),
        "Same person or not, at FMR 1e-3": rates["1e-3"],
    }


def _plots(found: Evaluation, paths: Paths, config: Mapping[str, Any]) -> list[Plot]:
    plots = [_cmc_plot(found, paths.dataset), _histogram(found), _training_plot(paths)]
    plots += [_held_out_plot(config), _rcan_plot(paths)]
    return [each for each in plots if each]


def _cmc_plot(found: Evaluation, dataset: str) -> Plot:
    ranking = found.ranking
    curves = {"single-shot": ranking.single_shot_cmc, "multi-shot": ranking.cmc}
    if found.untrained:
        curves["untrained, single-shot"] = found.untrained.single_shot_cmc
    ranks = list(range(1, len(ranking.single_shot_cmc) + 1))
    series = [Series(name, ranks, curve.tolist()) for name, curve in curves.items()]
    if published := published_metrics(dataset):
        series.append(Series("paper, single-shot", [1, 5, 10], list(published), "points"))
    ends = "; ".join(f"{name} from {curve[0]:.1f} to {curve[-1]:.1f} %" for name, curve in curves.items())
    alt = f"Curves over ranks 1 to {len(ranks)}: {ends}."
    title = "Cumulative matching characteristic (CMC)"
    return plot("cmc", title, alt, series, "rank", "queries found, %", limits=(0, 101))


def _histogram(found: Evaluation) -> Plot:
    bins = similarities(found.query, found.gallery)
    edges = bins.similarity.tolist()
    series = [Series(name, edges, bins[name].tolist(), "steps") for name in ("positives", "negatives")]
    means = [(bins.similarity * bins[each.label]).sum() / 100 for each in series]
    alt = (
        f"Two histograms of cosine similarity. Positives, images of the query's person, have the mean "
        f"{means[0]:.2f}; negatives, images of others, {means[1]:.2f}."
    )
    if _RATE in found.thresholds:
        threshold = found.thresholds[_RATE]
        height = float(bins[["positives", "negatives"]].to_numpy().max())
        series.append(Series("threshold at 1 % false matches", [threshold] * 2, [0.0, height]))
        alt += f" One in a hundred negatives is above the threshold {threshold:.2f}."
    title = "Similarity of right and wrong images"
    return plot("similarities", title, alt, series, "cosine similarity", "share of the pairs, %")


def _training_plot(paths: Paths) -> Plot | None:
    """The loss terms over the optimizer steps."""
    table = pd.read_csv(paths.losses, index_col="step")
    series = [Series(str(name), table.index.tolist(), table[name].tolist()) for name in table]
    if not series:
        return None
    ends = ", ".join(f"{each.label} from {each.y[0]:.2f} to {each.y[-1]:.2f}" for each in series)
    return plot("losses", "Training", f"Losses: {ends}.", series, "optimizer step", "loss, weighted")


def _held_out_plot(config: Mapping[str, Any]) -> Plot | None:
    """Rank-1 and mAP of the held-out persons over the epochs that measured them."""
    if not (measured := config.get("held_out")):
        return None
    epochs = [each["epoch"] for each in measured]
    series = [Series(label(name), epochs, [each[name] for each in measured]) for name in ("rank1", "mAP")]
    ends = ", ".join(f"{each.label} from {each.y[0]:.1f} to {each.y[-1]:.1f} %" for each in series)
    alt = f"Persons kept from training: {ends}."
    if kept := config.get("kept"):
        series.append(Series("kept", [kept["epoch"]], [kept["mAP"]], "points"))
        alt += f" Epoch {kept['epoch']} is kept, with an mAP of {kept['mAP']:.1f} %."
    return plot("held-out", "Held-out persons", alt, series, "epoch", "%")


def _rcan_plot(paths: Paths) -> Plot | None:
    """The L1 loss of each RCAN that was trained."""
    series = []
    for scale in paths.rcan_scales():
        table = pd.read_csv(paths.rcan(scale) / "loss.csv")
        if len(table):
            series.append(Series(f"RCAN x{scale}", table.iteration.tolist(), table.loss.tolist()))
    if not series:
        return None
    ends = ", ".join(f"{each.label} from {each.y[0]:.3f} to {each.y[-1]:.3f}" for each in series)
    return plot("rcan", "RCAN training", f"L1 loss: {ends}.", series, "iteration", "L1")


@dataclass(frozen=True)
class _Images:
    """Decoded images by image_id; originals are those that queries were made from."""

    captured: Mapping[str, Image]
    fed: Mapping[str, Image]
    gallery: Mapping[str, Image]
    originals: Mapping[str, Image]
    found: list[list[int]]  # rows of the gallery for each query that is shown


def _images(paths: Paths, found: Evaluation, rows: list[int]) -> _Images:
    matches = _matches(found.query, found.gallery, rows)
    ids = set(found.query_bank.keys.image_id[rows])
    made = set(found.query_bank.keys.image_id[rows][found.query_bank.keys.factor[rows] > 1])
    shown = set(found.gallery_bank.keys.image_id[[row for each in matches for row in each]])
    return _Images(
        captured=_decode(paths.mlr("query"), ids),
        fed=_decode(paths.sr("query"), ids),
        gallery=_decode(paths.mlr("gallery"), shown),
        originals=_decode(paths.images, made),
        found=matches,
    )


def _matches(query: Embeddings, gallery: Embeddings, rows: list[int]) -> list[list[int]]:
    """The nearest rows of the gallery for each query, and the nearest right one if it is none of these."""
    matches = [each.tolist() for each in nearest(query.select(rows), gallery, count=MATCHES)] if rows else []
    for row, found in zip(rows, matches, strict=True):
        same = gallery.person_ids == query.person_ids[row]
        if not same[found].any():
            right = np.flatnonzero(same & (gallery.camera_ids != query.camera_ids[row]))
            found.append(int(right[np.argmax(gallery.features[right] @ query.features[row])]))
    return matches


def _decode(table: Path, ids: set[str]) -> dict[str, Image]:
    """Images by image_id; shards that hold none of them are not read."""
    wanted = (shard for shard in shards(table) if not ids.isdisjoint(read_keys(shard).image_id))
    return {row.image_id: row.pixels() for shard in wanted for row in read_rows(shard) if row.image_id in ids}


def _examples(found: Evaluation, rows: list[int], images: _Images, model: DGRL) -> dict[str, Example]:
    """Queries with their nearest gallery images, by the queries' image_id."""
    queries, gallery = found.query_bank.keys, found.gallery_bank.keys
    query_maps = _maps(model, found.query_bank, set(rows), "sr")
    maps = _maps(model, found.gallery_bank, {row for each in images.found for row in each}, "hr")
    examples = {}
    for row, columns in zip(rows, images.found, strict=True):
        shown, best_rank = queries.iloc[row], int(found.ranking.best_rank[row])
        matches = [
            Match(
                rank if rank <= MATCHES else best_rank,
                image := images.gallery[gallery.image_id[column]],
                f"{gallery.person_id[column]}, {gallery.camera_id[column]}",
                bool(found.gallery.person_ids[column] == found.query.person_ids[row]),
                float(found.gallery.features[column] @ found.query.features[row]),
                overlay(image, maps[column]),
            )
            for rank, column in enumerate(columns, 1)
        ]
        captured, fed = images.captured[shown.image_id], images.fed[shown.image_id]
        activation = overlay(fed, query_maps[row])
        examples[shown.image_id] = Example(captured, fed, _caption(shown), matches, best_rank, activation)
    return examples


def _maps(model: DGRL, bank: ImageBank, rows: set[int], stream: Stream) -> dict[int, Any]:
    """Activation maps by row of a bank."""
    ordered = sorted(rows)
    if not ordered:
        return {}
    maps = activation_maps(model, bank.images[torch.tensor(ordered)], stream)
    return dict(zip(ordered, maps, strict=True))


def _restorations(
    found: Evaluation, rows: list[int], images: _Images, method: str
) -> list[tuple[str, list[Panel]]]:
    """Of the queries that were made from an HR image."""
    shown = []
    for row in rows:
        keys = found.query_bank.keys.iloc[row]
        if keys.image_id in images.originals:
            each = images.captured[keys.image_id], images.fed[keys.image_id], images.originals[keys.image_id]
            shown.append((_caption(keys), restoration(*each, int(keys.factor), method)))
    return shown


def _caption(keys: "pd.Series[Any]") -> str:
    return f"{keys.person_id}, {keys.camera_id}, factor {keys.factor}"
