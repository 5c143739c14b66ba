"""Where a report's metrics come from: every option of every stage, the commit, versions and digests."""

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dgrl.evaluation.params import EvaluateParams
from dgrl.files import sha256
from pipeline.params import as_scalar
from pipeline.paths import Paths
from pipeline.results import read_json

_OPENCV = (  # each brings cv2
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


def every_option(
    paths: Paths, params: EvaluateParams, split: dict[str, Any], sr: dict[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
    """Every option of every stage, as the files that it wrote say it."""
    sections = {"mlr": split["options"], "sr": sr}
    sections |= {f"rcan.x{scale}": _rcan(paths, scale) for scale in paths.rcan_scales()}
    sections |= {name: value for name, value in config.items() if isinstance(value, dict)}
    sections["evaluate"] = params.model_dump()
    named = ((name, key, value) for name, section in sections.items() for key, value in section.items())
    return {f"{name}.{key}": as_scalar(value) for name, key, value in named}


def _rcan(paths: Paths, scale: int) -> dict[str, Any]:
    """The options and PSNR of an RCAN, or why there is none."""
    options, metrics = (read_json(paths.rcan(scale) / f"{name}.json") for name in ("options", "metrics"))
    return {**options, **rounded(metrics)}


def rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    """Six digits; counts as they are."""
    return {
        name: value if isinstance(value, int) else float(f"{value:.6g}") for name, value in metrics.items()
    }


def origin(paths: Paths, digests: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, str]:
    """Commit, versions and digests: what this page comes from."""
    packages = ("torch", "torchvision", "numpy", "opencv-python", "basicsr-fixed")
    return {
        "commit": _commit() or "no git repository",
        "Python": platform.python_version(),
        **{package: installed_version(package) or "unknown" for package in packages},
        "SHA-256 of the network": sha256(paths.model),
        "SHA-256 of the weights it started from": config.get("weights_sha256") or "random weights",
        **{f"digest of {table}": digest for table, digest in digests.items()},
    }


def installed_version(package: str) -> str | None:
    """Version of a package, None without it; for ``opencv-python`` also that of OpenCV's other packages."""
    for name in _OPENCV if package in _OPENCV else (package,):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _commit() -> str | None:
    """The commit, and whether the code has been edited since; None outside of git."""
    try:
        head = _git("rev-parse", "HEAD")
        edited = _git("status", "--porcelain", "--", "dgrl", "pipeline")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + (", edited since" if edited else "")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()
