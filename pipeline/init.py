"""A project for own images: files laid down, and params that fit what the folder shows."""

import glob
import logging
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pandas as pd
from ruamel.yaml import YAML

from dgrl.datasets.archive import open_archive
from dgrl.datasets.folder import FolderParams, listed
from dgrl.errors import InputError
from dgrl.files import atomic_file
from dgrl.mlr.protocol import RANDOM
from dgrl.training.sampler import PersonBatchSampler
from pipeline.check import check, source_keys, training_images
from pipeline.names import find_pattern
from pipeline.params import Params
from pipeline.params_file import read_yaml
from pipeline.preset import keep_edited, write_params

PROJECT = Path(__file__).parent / "project"  # what a checkout has at its root
PARAMS = Path("params.yaml")
LOW = 0.6  # of the other cameras' height: then a camera is of low resolution
STEPS = 100  # optimizer steps at least; a small set has few an epoch

_GIT_IGNORE = ".work/\n/data/*\ndvc_plots/\n"
_DVC_IGNORE = ".venv\n.work\n"
_DVC_CONFIG = {
    "core.analytics": "false",
    "core.autostage": "false",
    "cache.type": "reflink,hardlink,symlink,copy",
}
_HEADER = """\
inputs -> download -> split -> pretrain_sr -> cache_sr -> train -> evaluate, for every dataset of params.yaml.
`dvc repro` runs what has changed. Written by `dgrl init`: the stages run the installed dgrl, and the stage
inputs writes a digest of each stage's code, so that another version of it reruns what it changes."""


def init(
    name: str | None,
    folder: Path | None = None,
    table: Path | None = None,
    pattern: str | None = None,
    *,
    use_all: bool = False,
) -> list[str]:
    """Lay down a project where there is none, and set its params for a set of own images.

    Args:
        name: of the dataset; None for the project alone.
        folder: the images; by default where the table is.
        table: who is seen where, as ``source.<name>.table``; without it the names say it.
        pattern: the names' pattern; by default it is found.
        use_all: train on everyone, with nobody held out.

    Returns:
        What was found and set, line by line.

    Raises:
        InputError: if the images or the folder of the project do not do; nothing is written then.
    """
    if name is None:
        laid = _lay_down()
        _commit(laid)
        return [f"wrote {', '.join(laid) or 'nothing, all is here'}; next: dvc repro"]
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"{name!r} is no name for a dataset; use letters, digits, _ and -")
    if folder is None and table is None:
        raise InputError("what shall be looked at is missing; give --from-folder DIR or --table FILE")
    _check_free()
    base = read_yaml(PARAMS if PARAMS.exists() else PROJECT / PARAMS)
    Params.parse(base, "", str(PARAMS))  # a wrong one is named before the images are looked at
    if base["source"].get(name, {}).get("kind", "folder") != "folder":
        raise InputError(f"{name} is the name of another set here (source.{name}); choose another name")
    with _unlogged():
        source, lines = _source(folder, table, pattern)
        try:
            values, more = _fitting(base, name, source, use_all)
        except InputError as error:
            raise InputError(f"{error} ({lines[0]})") from None
    laid = _lay_down(folder)
    backup = None if "params.yaml" in laid else keep_edited(PARAMS)
    write_params(values, PARAMS)
    _commit(laid)
    kept = f" (the old one is {backup})" if backup else ""
    written = [f"wrote {', '.join(dict.fromkeys([*laid, 'params.yaml']))}{kept}"]
    next_step = [f"next: dvc repro evaluate@{name}, then open data/{name}/eval/report.html"]
    return [*lines, *more, *written, *next_step]


# What the images are


@contextmanager
def _unlogged() -> Iterator[None]:
    """Without the log of files that are left out, which each reading of the folder would repeat."""
    log = logging.getLogger("dgrl.datasets.archive")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _source(folder: Path | None, table: Path | None, pattern: str | None) -> tuple[dict[str, Any], list[str]]:
    """The section of the source, and what was found."""
    root = folder or (table.parent if table else Path())
    if Path.cwd().is_relative_to(root.resolve()):
        raise InputError(
            f"the project would lie in the folder of the images ({root}), which each run would change; put "
            "the images into a folder of their own, and name it by --from-folder"
        )
    if table is None and pattern is None:
        with open_archive(root) as opened:
            pattern = find_pattern(opened.names)
    source = {"kind": "folder", "root": str(root), "table": table and str(table), "pattern": pattern}
    with listed(FolderParams.parse(source, "source")) as (opened, members):
        names = opened.names
    known = {member.name for member in members}
    first = members[0]
    lines = [f"for example {first.name}: person {first.person_id}, camera {first.camera_id}"]
    if left := [name for name in names if name not in known]:
        lines.append(f"left out, as nothing says who is on them: {len(left)} files ({_some(left)})")
    return source, lines


def _fitting(
    base: dict[str, Any], name: str, source: dict[str, Any], use_all: bool
) -> tuple[dict[str, Any], list[str]]:
    """The values to set in params.yaml for the images of a source, and what to say of them."""
    mlr = base["mlr"]
    values: dict[str, Any] = {
        "datasets": [name],
        "source": {**base["source"], name: source},
        "mlr": {**mlr, "lr_camera": {**mlr["lr_camera"], name: "*"}},
    }
    if use_all or mlr["evaluate_on"] == "everyone":
        values["mlr"]["evaluate_on"] = "everyone" if use_all else "test"
    keys = cast("pd.DataFrame", source_keys(name, Params.parse({**base, **values}, "")))  # of a folder
    persons, cameras = keys.person_id.nunique(), sorted(set(keys.camera_id))
    lines = [f"{len(keys)} images of {persons} persons by {len(cameras)} cameras ({_some(cameras)})"]
    camera, real, said = _lr_camera(keys)
    others = [other for other in mlr["real_lr"] if other != name]
    values["mlr"] |= {"real_lr": [*others, name] if real else others}
    values["mlr"]["lr_camera"][name] = camera if camera == "lr:*" else _literal(camera)
    factors = " or ".join([", ".join(map(str, mlr["factors"][:-1])), str(mlr["factors"][-1])])
    lines.append(
        said if real else f"{said}; the images of {camera} are shrunk by {factors} to be the queries"
    )
    training = training_images(keys, name, Params.parse({**base, **values}, ""))
    if (count := training.person_id.nunique()) < 2:
        hint = "" if use_all else " (half of them are held out; --use-all trains on everyone)"
        raise InputError(
            f"{count} of {persons} persons would train, and a batch wants two; add persons{hint}"
        )
    values["rcan"], values["sr"] = _super_resolution(base, training)
    values["train"] = _batches(base["train"], training)
    check(name, Params.parse({**base, **values}, ""))
    if real and (dropped := persons - training.person_id.nunique()) and use_all:
        lines.append(f"left out: {dropped} persons who are not seen in both resolutions")
    if use_all:
        lines.append(f"all {count} persons train; the metrics are of the same persons, so they flatter")
    else:
        lines.append(f"{count} persons train, others are held out for the metrics")
    train = values["train"]
    lines.append(
        f"batches of {train['persons_per_batch']} persons x {train['pairs_per_person']} pairs, "
        f"{train['epochs']} epochs; the network is as params.yaml had it"
    )
    return values, lines


def _lr_camera(keys: pd.DataFrame) -> tuple[str, bool, str]:
    """The LR camera, or pattern; whether its images are of low resolution as they are; and why."""
    sizes = keys.groupby("camera_id")[["width", "height"]].median().astype(int).sort_values("height")
    cameras = [str(camera) for camera in sizes.index]
    shown = {camera: f"{width}x{height}" for camera, width, height in sizes.itertuples()}
    if low := [camera for camera in cameras if camera.startswith("lr:")]:
        return "lr:*", True, f"the cameras of role lr are of low resolution: {_some(low)}"
    heights = dict(zip(cameras, sizes.height.tolist(), strict=True))
    gaps = [heights[one] / heights[other] for one, other in pairwise(cameras)]
    if min(gaps, default=1) <= LOW:
        low = cameras[: gaps.index(min(gaps)) + 1]
        if len(low) > 1:
            raise InputError(
                f"several cameras are of low resolution ({_sizes(shown, low)}); put their images below a "
                "folder lr and the others below hr, or give a table with a column role"
            )
        others = _sizes(shown, cameras[1:])
        return cameras[0], True, f"{cameras[0]} is low-resolution: {shown[cameras[0]]}, others {others}"
    seen = {camera: keys.person_id[keys.camera_id == camera].nunique() for camera in sorted(cameras)}
    return max(seen, key=seen.__getitem__), False, f"no camera is low-resolution ({_sizes(shown, cameras)})"


def _literal(camera: str) -> str:
    """The pattern that fits this camera alone."""
    return f"[{camera[0]}]{camera[1:]}" if camera == RANDOM else glob.escape(camera)


def _sizes(shown: dict[str, str], cameras: list[str]) -> str:
    return _some([f"{camera} {shown[camera]}" for camera in cameras])


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


# What fits them


def _super_resolution(base: dict[str, Any], training: pd.DataFrame) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections rcan and sr, with a patch that fits into nearly every image."""
    unit = math.lcm(*base["rcan"]["scales"])
    side = int(training[["width", "height"]].min(axis="columns").quantile(0.05))
    patch = min(base["rcan"]["patch"], side // unit * unit)
    if patch < 12:  # RCAN's smallest
        return base["rcan"], {**base["sr"], "method": "bicubic"}
    return {**base["rcan"], "patch": patch}, base["sr"]


def _batches(train: dict[str, Any], training: pd.DataFrame) -> dict[str, Any]:
    """The section train, with a batch of persons that there are, and enough epochs of few batches."""
    persons = training.person_id.astype("category").cat.codes.tolist()
    batch = max(2, min(train["persons_per_batch"], len(set(persons))))
    steps = PersonBatchSampler(persons, batch, train["pairs_per_person"], 0).batches_per_epoch
    epochs = math.ceil(STEPS / steps)
    smaller = batch / train["persons_per_batch"]  # which wants as much smaller steps, or the loss rises
    fitted = {
        **train,
        "persons_per_batch": batch,
        "learning_rate": round(train["learning_rate"] * smaller, 4),
    }
    if epochs <= train["epochs"]:
        return fitted
    late = {"epochs": epochs, "decay_every": max(1, epochs * 3 // 4), "warmup_epochs": max(1, epochs // 10)}
    return fitted | late


# The project's files


def _check_free() -> None:
    if Path("dvc.yaml").exists() and not PARAMS.exists():
        raise InputError(
            "dvc.yaml is here, but no params.yaml; run dgrl init in an empty folder, or in a project"
        )


def _lay_down(images: Path | None = None) -> list[str]:
    """Write the files of a project that are not there; returns their names. Git shall ignore own images."""
    _check_free()
    own = "" if images is None or images.is_absolute() or ".." in images.parts else f"/{images.as_posix()}\n"
    texts = {".gitignore": _GIT_IGNORE + own, ".dvcignore": _DVC_IGNORE}
    if not PARAMS.exists():
        texts |= {"dvc.yaml": "", "params.yaml": (PROJECT / PARAMS).read_text()}
        texts |= {f"presets/{file.name}": file.read_text() for file in sorted(PROJECT.glob("presets/*.yaml"))}
    new = [name for name in texts if not Path(name).exists()]
    if not Path(".dvc").is_dir():
        _init_dvc()
        new.append(".dvc/")
    for name in new:
        if name == "dvc.yaml":
            _write_stages(Path(name))
        elif name in texts:
            with atomic_file(Path(name)) as file:
                file.write_text(texts[name])
    return sorted({name.partition("/")[0] + "/" * ("/" in name) for name in new})


def _write_stages(file: Path) -> None:
    """The project's dvc.yaml, but with the installed code in place of the checkout's files."""
    yaml = YAML()
    yaml.width = 200
    content = yaml.load(PROJECT / "stages.yaml")
    content.yaml_set_start_comment(_HEADER)
    for name, stage in content["stages"].items():
        stage["cmd"] = stage["cmd"].replace("python -m pipeline", "dgrl")
        if name == "inputs":
            stage["cmd"] += " --code"
            stage["outs"] += [_code(each) for each in content["stages"] if each != "inputs"]
        else:
            data = [dep for dep in stage["deps"] if dep.startswith("data/")]
            stage["deps"] = [_code(name), *data]
    with atomic_file(file) as building:
        yaml.dump(content, building)


def _code(stage: str) -> str:
    return f"data/${{item.dataset}}/inputs/code/{stage}.txt"


def _init_dvc() -> None:
    """``git init`` where there is no repository, ``dvc init``, and the project's settings of DVC."""
    has_git = shutil.which("git") is not None
    inside = has_git and _run("git", "rev-parse", "--show-prefix", check=False)
    if has_git and inside is None:
        _run("git", "init", "--quiet")
    options = ["--no-scm"] if not has_git else ["--subdir"] if inside else []
    dvc = [sys.executable, "-m", "dvc"]
    _run(*dvc, "init", "--quiet", *options)
    for key, value in _DVC_CONFIG.items():
        _run(*dvc, "config", "--quiet", key, value)


def _commit(names: list[str]) -> None:
    """The first commit of a repository: experiments start from it, and DVCLive wants one."""
    if shutil.which("git") is None or _run("git", "rev-parse", "--verify", "HEAD", check=False):
        return
    known = _run("git", "config", "user.email", check=False)
    identity = [] if known else ["-c", "user.name=dgrl", "-c", "user.email=dgrl@localhost"]
    _run("git", "add", "--", *names)
    _run("git", *identity, "commit", "--quiet", "--message", "Start a dgrl project")


def _run(*words: str, check: bool = True) -> str | None:
    """What a command prints; None if it fails and that may be."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode and check:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise InputError(f"{' '.join(words[-3:])} failed: {said}")
    return None if done.returncode else done.stdout.strip()
