"""Stage cache_sr: the SR picture of every LR picture, computed once."""

from dgrl.superres.upscale import upscale_table
from pipeline.params import DatasetName, Params
from pipeline.paths import Paths


def cache_sr(dataset: DatasetName, params: Params) -> None:
    """Write ``data/<dataset>/sr``."""
    paths = Paths(dataset)
    weights = {scale: paths.rcan(scale) / "rcan.safetensors" for scale in params.rcan.scales}
    upscale_table(paths.mlr("train_lr"), paths.sr("train"), weights, params.sr, hr=paths.mlr("train_hr"))
    upscale_table(paths.mlr("query"), paths.sr("query"), weights, params.sr)
