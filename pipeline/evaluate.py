"""Stage evaluate: the trained network's metrics on query and gallery."""

import json
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dgrl.embedders.protocol import network_digest
from dgrl.errors import InputError
from dgrl.evaluation.adaptation import adapted, fit
from dgrl.evaluation.calibration import calibrate
from dgrl.evaluation.evaluate import curves, evaluate_embeddings
from dgrl.evaluation.keys import with_keys
from dgrl.evaluation.params import EvaluateParams
from dgrl.evaluation.ranking import Embeddings, rank
from dgrl.extractor import Extractor
from dgrl.files import atomic_folder
from dgrl.image_bank import ImageBank, load_bank
from dgrl.mlr.protocol import MlrParams, seen_by_lr_camera
from dgrl.model.network import DGRL
from dgrl.parallel.device import default_workers
from dgrl.random import named_seed
from dgrl.weights.published import load_model, trained_persons
from pipeline.params import Params, as_scalar
from pipeline.paths import Paths
from pipeline.report import Evaluation, write_report
from pipeline.results import read_json


def evaluate(dataset: str, params: Params, workers: int | None = None) -> dict[str, float]:
    """Write ``data/<dataset>/eval`` with ``workers`` processes, or as many as suit the machine.

    Returns:
        The headline metrics, in percent.
    """
    paths = Paths(dataset)
    model, model_params = load_model(paths.model)
    size = model_params.height, model_params.width
    query_bank, gallery_bank = load_bank(paths.sr("query"), *size), load_bank(paths.mlr("gallery"), *size)
    ready = partial(
        Extractor,
        height=size[0],
        width=size[1],
        flip=params.evaluate.flip,
        workers=workers or default_workers(),
    )
    extractor = ready(model)
    query, gallery = _embed(extractor, query_bank, gallery_bank)
    factors = query_bank.keys.factor.to_numpy()
    ranking, metrics = evaluate_embeddings(query, gallery, factors, params.evaluate)
    seed, digest = params.evaluate.seed, network_digest([paths.model], flip=params.evaluate.flip)
    calibration, calibrated = calibrate(query, gallery, factors, digest, seed)
    metrics |= calibrated
    if params.evaluate.adapt == "whiten":
        whitening = fit(*_adaptation_pairs(dataset, paths, extractor, size), seed)
        adapted_metrics = rank(*adapted(whitening, query, gallery)).metrics()
        metrics |= {f"adapted.{name}": value for name, value in adapted_metrics.items()}
        metrics["adapted.lambda"] = whitening.shrinkage
    untrained = None
    if params.evaluate.untrained:
        torch.manual_seed(named_seed("untrained", seed))
        untrained = rank(*_embed(ready(DGRL(model_params, persons=1)), query_bank, gallery_bank))
        metrics |= {f"untrained.{name}": value for name, value in untrained.metrics().items()}
    options = _options(paths, params.evaluate)
    with atomic_folder(paths.eval) as folder:
        fitted = calibration and calibration.model_dump(mode="json")  # null: too few persons
        (folder / "calibration.json").write_text(json.dumps(fitted) + "\n")
        written = {dataset: _nested(metrics) | {"options": options}}
        (folder / "metrics.json").write_text(json.dumps(written, indent=1) + "\n")
        curves(ranking).to_csv(folder / "cmc.csv", index=False)
        thresholds = calibration.thresholds if calibration else {}
        found = Evaluation(query_bank, gallery_bank, query, gallery, ranking, untrained, metrics, thresholds)
        write_report(folder, paths, found, model, params.evaluate)
        pq.write_table(
            _embeddings_table(query_bank, query, gallery_bank, gallery), folder / "embeddings.parquet"
        )
    return metrics


def _embed(extractor: Extractor, query: ImageBank, gallery: ImageBank) -> tuple[Embeddings, Embeddings]:
    """Queries through the SR stem, gallery through the HR stem (III-B)."""
    query_features = extractor.embed_tensor(query.images, "sr")
    gallery_features = extractor.embed_tensor(gallery.images, "hr")
    return with_keys(query_features, query.keys, gallery_features, gallery.keys)


def _adaptation_pairs(
    dataset: str, paths: Paths, extractor: Extractor, size: tuple[int, int]
) -> tuple[Embeddings, Embeddings]:
    """Training persons whom the network did not learn from: by the LR camera, and by the others."""
    learned = trained_persons(paths.model)
    options = read_json(paths.split)["options"]
    mlr = MlrParams.parse(
        {**options, "lr_camera": {dataset: options["lr_camera"]}}, "options", str(paths.split)
    )
    banks = [load_bank(table, *size) for table in (paths.sr("train"), paths.mlr("train_hr"))]
    seen = seen_by_lr_camera(pd.concat([bank.keys for bank in banks], ignore_index=True), dataset, mlr)
    sides = []
    for bank, is_lr, start in zip(banks, (True, False), (0, len(banks[0])), strict=True):
        chosen = [
            f"{dataset}/{person}" not in learned and by_lr == is_lr
            for person, by_lr in zip(bank.keys.person_id, seen[start : start + len(bank)], strict=True)
        ]
        sides.append(ImageBank(bank.images[torch.tensor(chosen)], bank.keys[chosen]))
    if not all(map(len, sides)):
        raise InputError(
            "evaluate.adapt = whiten needs training persons whom the network did not learn from; set "
            "train.held_out to a share of them such as 0.5, or train.epochs to 0"
        )
    return _embed(extractor, *sides)


def _options(paths: Paths, params: EvaluateParams) -> dict[str, Any]:
    """Every choice that the metrics depend on and that the paper leaves open, as the files read say it."""
    split, sr, trained = map(read_json, (paths.split, paths.sr_options, paths.config))
    model, kept = trained["model"], trained.get("kept")
    return {
        **{f"mlr.{name}": as_scalar(value) for name, value in split["options"].items()},
        "sr.method": sr["method"],
        "evaluate.flip": params.flip,
        "evaluate.adapt": params.adapt,
        "train.epochs": trained["train"]["epochs"],
        **({"train.kept_epoch": kept["epoch"], "train.kept_by": kept["by"]} if kept else {}),
        "model.backbone": model["backbone"],
        "model.size": f"{model['height']}x{model['width']}",
        "weights_sha256": trained.get("weights_sha256"),
    }


def _nested(metrics: dict[str, float]) -> dict[str, Any]:
    """Dotted names become nested mappings, which is how DVC shows them."""
    nested: dict[str, Any] = {}
    for name, value in metrics.items():
        *path, last = name.split(".")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = round(value, 4)
    return nested


def _embeddings_table(
    query_bank: ImageBank, query: Embeddings, gallery_bank: ImageBank, gallery: Embeddings
) -> pa.Table:
    """Columns image_id, person_id, camera_id, subset, factor and embedding, queries first."""
    columns = ["image_id", "person_id", "camera_id", "subset", "factor"]
    keys = pd.concat([query_bank.keys, gallery_bank.keys], ignore_index=True)[columns]
    features = np.concatenate([query.features, gallery.features])
    table = pa.Table.from_pandas(keys, preserve_index=False)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    return table.append_column("embedding", embedding)
