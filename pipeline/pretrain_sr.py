"""Stage pretrain_sr: RCAN of one scale, trained on the HR training pictures."""

from dgrl.errors import InputError
from dgrl.superres.pretrain import pretrain
from pipeline.params import DatasetName, Params
from pipeline.paths import Paths
from pipeline.work import work_folder


def pretrain_sr(dataset: DatasetName, scale: int, params: Params) -> dict[str, float]:
    """Write ``data/<dataset>/rcan/x<scale>``; returns PSNR and SSIM on held-out training persons."""
    if scale not in params.rcan.scales:
        allowed = ", ".join(map(str, params.rcan.scales))
        raise InputError(f"scale {scale} is not one of params.yaml's rcan.scales ({allowed})")
    paths = Paths(dataset)
    table = paths.mlr("train_hr")
    with work_folder(f"pretrain_sr-{dataset}-x{scale}", params.rcan.model_dump_json(), [table]) as work:
        return pretrain(table, paths.rcan(scale), scale, params.rcan, work)
