"""A report with each of its parts, of drawn numbers and noise."""

from typing import Any

import numpy as np
import pandas as pd

from dgrl.images import Image
from dgrl.random import named_generator
from dgrl.report.plots import Plot, Series, plot
from dgrl.report.render import Example, Match, Report
from dgrl.report.restoration import restoration

COLUMNS = ["rank1", "rank5", "rank10", "mAP"]


def noise(height: int, width: int) -> Image:
    """The same image for the same size."""
    rng = named_generator("small_report", height, width)
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def example(caption: str = "person 7, cam_a, factor 2") -> Example:
    """A query with ten matches, every third right."""
    image = noise(256, 128)
    matches = [
        Match(rank, image, f"person {rank - 1}, cam_b", rank % 3 == 0, 0.95 - rank / 20, image)
        for rank in range(1, 11)
    ]
    return Example(noise(64, 24), noise(128, 48), caption, matches, 3, noise(128, 48))


def small_plot(name: str = "cmc") -> Plot:
    curves = [Series("single-shot", [1, 2, 3], [45.9, 60.0, 73.7]), Series("paper", [1], [50.0], "points")]
    return plot(name, "CMC", "A curve rises from 45.9 to 73.7 %.", curves, "rank", "queries found, %")


def small_report(**changed: Any) -> Report:
    """The whole of it, with some parts exchanged."""
    headline = {"single-shot": [45.94, 73.7, 83.9, 51.25], "DGRL (paper)": [45.9, 73.7, 83.9, np.nan]}
    factors = pd.DataFrame([[658, 48.0, 70.0, 80.0, 50.0], [658, 44.0, 68.0, 79.0, 49.0]], ["x2", "x3"])
    pairs = pd.DataFrame([[1316, 316, 46.0, 71.0, 80.0, 50.0]], ["camera_entrance to camera_platform_2"])
    pixels = noise(64, 24), noise(128, 48), noise(129, 49)  # LR, SR, HR
    parts: dict[str, Any] = {
        "title": "DGRL on MLR-VIPeR",
        "summary": "1,316 queries against 316 gallery images.",
        "headline": pd.DataFrame.from_dict(headline, "index", columns=COLUMNS),
        "notes": ["Percent."],
        "tables": {
            "By factor": factors.set_axis(["queries", *COLUMNS], axis=1).astype({"queries": int}),
            "By camera pair": pairs.set_axis(["queries", "gallery", *COLUMNS], axis=1),
        },
        "plots": [small_plot(), small_plot("losses"), small_plot("rcan")],
        "examples": {"Worst queries": [example()], "Best queries": [example("person 8, cam_a, factor 3")]},
        "restorations": [("person 7, cam_a, factor 2", restoration(*pixels, 2, "rcan"))],
        "metrics": {"rank1": 45.94, "queries": 1316, "multi_shot.rank1": 60.06},
        "options": {"loss.gamma": 5.0, "mlr.factors": "2 3 4"},
        "origin": {"commit": "0123456789abcdef0123456789abcdef01234567", "SHA-256 of the network": "ab" * 32},
    }
    return Report(**(parts | changed))
