"""A run beside an earlier one, as a page.

It is no stage: what a stage writes follows from its params and inputs alone, and a commit is neither.
"""

import hashlib
import io
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from scmrepo.exceptions import SCMError

from dgrl.errors import InputError
from dgrl.report.plots import Plot, Series, plot
from dgrl.report.render import Report
from pipeline.experiments.ablate import flat
from pipeline.experiments.paper import DATASET_TITLES, published_metrics
from pipeline.paths import Paths
from pipeline.report import headline

HERE = "this run"
_LOCK = "dvc.lock"  # which params each stage ran with, and the digest of what it wrote

Read = Callable[[str], bytes]  # a file of the project


@dataclass(frozen=True)
class Run:
    """What the stages of a dataset wrote.

    Args:
        name: of the run, for people.
        metrics: by dotted name, in percent.
        cmc: columns rank, single_shot, multi_shot.
        params: by dotted name, as the stages ran with them.
    """

    name: str
    metrics: dict[str, float]
    cmc: pd.DataFrame
    params: dict[str, Any]


def against(dataset: str, revision: str | None = None) -> Report:
    """The metrics of the workspace beside those of an earlier run.

    Args:
        dataset: its name.
        revision: a commit, tag, branch or experiment; default the newest commit with other metrics, whose
            files are still here.

    Raises:
        InputError: if either run has no metrics, or this is no project of git and DVC.
    """
    here = _run(dataset, HERE, _read_here)
    there = _run(dataset, revision, _reader(revision)) if revision else _previous(dataset)
    title = DATASET_TITLES.get(dataset, dataset)
    return Report(
        title=f"DGRL on {title}: {HERE} and {there.name}",
        summary=f"What the last dvc repro wrote in this folder, and what git and DVC keep of {there.name}.",
        headline=_headline(here, there, dataset),
        notes=_notes(here, there),
        plots=[_cmc_plot(here, there, dataset)],
        tables=_tables(here, there),
    )


def _headline(here: Run, there: Run, dataset: str) -> pd.DataFrame:
    """Each row of this run, and below it the other's, where it differs."""
    frames = headline(here.metrics, dataset), headline(there.metrics, dataset)
    own, other = ({str(name): row for name, row in frame.iterrows()} for frame in frames)
    first = next(iter(own))
    rows = {HERE: own[first], there.name: other[first], "difference": own.pop(first) - other.pop(first)}
    for name, row in own.items():
        rows[name] = row
        if name in other and not other[name].equals(row):
            rows[f"{name}, {there.name}"] = other[name]
    return pd.DataFrame.from_dict(rows, "index")


def _notes(here: Run, there: Run) -> list[str]:
    differing = [
        f"{key} = {here.params.get(key)} (there {there.params.get(key)})"
        for key in sorted({*here.params, *there.params})
        if here.params.get(key) != there.params.get(key)
    ]
    return [
        "Percent. Rank-k is single-shot unless the row says multi-shot.",
        f"Params that differ: {', '.join(differing)}." if differing else "No param differs.",
    ]


def _cmc_plot(here: Run, there: Run, dataset: str) -> Plot:
    runs = (here, there)
    series = [Series(run.name, run.cmc["rank"].tolist(), run.cmc.single_shot.tolist()) for run in runs]
    ends = "; ".join(f"{each.label} from {each.y[0]:.1f} to {each.y[-1]:.1f} %" for each in series)
    if published := published_metrics(dataset):
        series.append(Series("paper", [1, 5, 10], list(published), "points"))
    title, alt = "Cumulative matching characteristic (CMC), single-shot", f"Curves over ranks: {ends}."
    return plot("cmc", title, alt, series, "rank", "queries found, %", limits=(0, 101))


def _tables(here: Run, there: Run) -> dict[str, pd.DataFrame]:
    factors = [key for key in here.metrics if key.startswith("factor")]
    rows = {run.name: [run.metrics.get(key, float("nan")) for key in factors] for run in (here, there)}
    columns = [f"x{key.removeprefix('factor').removesuffix('.rank1')}" for key in factors]
    return {"Rank-1 by down-sampling factor": pd.DataFrame.from_dict(rows, "index", columns=columns)}


def _run(dataset: str, name: str, read: Read) -> Run:
    folder = Paths(dataset).eval
    try:
        metrics = dict(flat(json.loads(read(f"{folder}/metrics.json"))[dataset]))
        cmc = pd.read_csv(io.BytesIO(read(f"{folder}/cmc.csv")))
        stages = _stages(dataset, read(_LOCK))
    except OSError as error:
        where = "run dvc repro" if name == HERE else "get its files: dvc fetch --all-commits, or repeat it"
        raise InputError(f"{name} has no metrics of {dataset} ({error.filename or error}); {where}") from None
    except (ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        raise InputError(f"{name}: {folder} or {_LOCK} is damaged; dvc repro makes both") from None
    sections = [stage.get("params", {}).get("params.yaml", {}) for stage in stages]
    numbers = {key: value for key, value in metrics.items() if not key.startswith("options.")}
    return Run(name, numbers, cmc, {key: value for each in sections for key, value in flat(each)})


def _stages(dataset: str, lock: bytes) -> list[dict[str, Any]]:
    """Those that write below the dataset's folder."""
    stages = yaml.load(lock, yaml.CSafeLoader)["stages"].values()
    below = f"{Paths(dataset).root}/"
    return [stage for stage in stages if any(out["path"].startswith(below) for out in stage.get("outs", []))]


def _previous(dataset: str) -> Run:
    """The newest run with other metrics than the workspace's, of those that git and DVC's cache keep."""
    path = f"{Paths(dataset).eval}/metrics.json"
    here = hashlib.md5(_read_here(path), usedforsecurity=False).hexdigest()
    lost = ""
    for commit in _git("log", "--format=%H", "--diff-filter=AM", "--", _LOCK).split():
        stages = _stages(dataset, _git("show", f"{commit}:./{_LOCK}").encode())
        digests = [out.get("md5") for stage in stages for out in stage["outs"] if out["path"] == path]
        if digests and digests != [here]:
            try:
                return _run(dataset, commit[:7], _reader(commit))
            except InputError as error:
                lost = lost or f" ({error})"
    raise InputError(
        f"no commit has other metrics of {dataset} than this run{lost}; name a commit or an experiment"
    )


def _read_here(name: str) -> bytes:
    return Path(name).read_bytes()


def _reader(revision: str) -> Read:
    """How to read files of a revision, which git or DVC's cache keeps."""
    try:
        files = DVCFileSystem(rev=revision)
        files.ls("/")
    except (SCMError, DvcException) as error:
        raise InputError(f"the revision {revision}: {error}; give a commit, or a name of dgrl runs") from None
    return lambda name: bytes(files.read_bytes(name))


def _git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise InputError("this folder has no commit of git, whose runs could be compared") from None
