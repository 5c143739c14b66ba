"""Stage cache_sr: the SR image of every LR image, computed once."""

import json
from functools import partial

from dgrl.files import atomic_folder
from dgrl.superres.upscale import upscale_table
from pipeline.params import Params
from pipeline.paths import Paths


def cache_sr(dataset: str, params: Params, workers: int | None = None) -> None:
    """Write ``data/<dataset>/sr`` whole, with ``workers`` processes, or as many as suit the machine."""
    paths = Paths(dataset)
    weights = {scale: paths.rcan(scale) / "rcan.safetensors" for scale in params.rcan.scales}
    upscale = partial(upscale_table, weights=weights, params=params.sr, workers=workers)
    with atomic_folder(paths.sr_options.parent) as building:
        upscale(paths.mlr("train_lr"), building / "train")
        upscale(paths.mlr("query"), building / "query")
        options = json.dumps({"method": params.sr.method}) + "\n"
        (building / paths.sr_options.name).write_text(options)
