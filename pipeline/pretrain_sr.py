"""Stage pretrain_sr: RCAN of one scale, trained on the HR training images or pretrained elsewhere."""

from pathlib import Path

from dgrl.errors import InputError
from dgrl.superres.pretrain import large_enough, pretrain, publish_nothing, publish_trained
from pipeline.params import Params
from pipeline.paths import Paths, outside
from pipeline.work import code, work_folder


def pretrain_sr(dataset: str, scale: int, params: Params) -> dict[str, float]:
    """Write ``data/<dataset>/rcan/x<scale>``; returns PSNR and SSIM on held-out training persons.

    A dataset whose LR images are real has none to restore (IV-C), but for training twins: nothing is trained,
    the files say so, and the result is empty. It is empty too where ``rcan.weights`` names pretrained RCANs,
    which are copied.
    """
    if scale not in params.rcan.scales:
        allowed = ", ".join(map(str, params.rcan.scales))
        raise InputError(f"scale {scale} is not one of params.yaml's rcan.scales ({allowed})")
    paths = Paths(dataset)
    if params.sr.method != "rcan":
        publish_nothing(paths.rcan(scale), f"sr.method is {params.sr.method}")
        return {}
    if not has_lr_to_restore(dataset, params):
        publish_nothing(paths.rcan(scale), f"{dataset}'s LR images are real (mlr.real_lr)")
        return {}
    if params.rcan.weights is not None:
        publish_trained(paths.rcan(scale), rcan_weights(params.rcan.weights, scale))
        return {}
    table = paths.mlr("train_hr")
    how = params.mlr.degradation
    settings = params.rcan.model_dump_json(exclude={"scales", "weights"})  # others change nothing of this one
    files = [table, *code("pretrain_sr", dataset)]
    for each in params.datasets:  # now, not when hours have gone into this one
        if has_lr_to_restore(each, params) and (split := Paths(each).mlr("train_hr")).exists():
            large_enough(split, params.rcan)
    with work_folder(f"pretrain_sr@{dataset}-{scale}", f"{settings} {how}", files) as work:
        return pretrain(table, paths.rcan(scale), scale, params.rcan, work, how)


def has_lr_to_restore(dataset: str, params: Params) -> bool:
    """Whether a dataset has LR images that were made of HR ones."""
    return dataset not in params.mlr.real_lr or params.mlr.training_pairs == "twin"


def rcan_weights(folder: str, scale: int) -> Path:
    """The file of a scale in the folder that ``rcan.weights`` names."""
    return outside(f"{folder}/x{scale}/rcan.safetensors")
