"""Stage cache_sr: the SR image of every LR image, computed once."""

import json
from functools import partial

from dgrl.files import atomic_file
from dgrl.superres.upscale import upscale_table
from pipeline.params import Params
from pipeline.paths import Paths


def cache_sr(dataset: str, params: Params, workers: int | None = None) -> None:
    """Write ``data/<dataset>/sr`` with ``workers`` processes, or as many as suit the machine."""
    paths = Paths(dataset)
    weights = {scale: paths.rcan(scale) / "rcan.safetensors" for scale in params.rcan.scales}
    upscale = partial(upscale_table, weights=weights, params=params.sr, workers=workers)
    upscale(paths.mlr("train_lr"), paths.sr("train"), hr=paths.mlr("train_hr"))
    upscale(paths.mlr("query"), paths.sr("query"))
    with atomic_file(paths.sr_options) as file:
        file.write_text(json.dumps({"method": params.sr.method}) + "\n")
