"""What ``dgrl compare`` writes: its results as JSON, as a Markdown table and as a plot."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import cycle
from pathlib import Path

import pandas as pd

from dgrl.files import atomic_file
from pipeline.experiments.compare import Result


def write(folder: Path, results: Sequence[Result]) -> str:
    """Write ``compare.json``, ``compare.md`` and ``compare.svg`` into a folder; returns the Markdown."""
    text = markdown(results)
    content = json.dumps([asdict(result) for result in results], indent=1) + "\n"
    for name, written in {"json": content, "md": text, "svg": _plot(results)}.items():
        with atomic_file(folder / f"compare.{name}") as file:
            file.write_text(written, encoding="utf-8")
    return text


def markdown(results: Sequence[Result]) -> str:
    """A table per dataset: single-shot Rank-k, multi-shot ones where they differ, mAP, mINP, calibration."""
    parts = []
    for dataset in dict.fromkeys(result.dataset for result in results):
        chosen = [result for result in results if result.dataset == dataset]
        names = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}
        if any(result.mean["multi_shot.rank1"] - result.mean["rank1"] > 1e-6 for result in chosen):
            names |= {f"multi_shot.rank{k}": f"multi-shot Rank-{k}" for k in (1, 5, 10)}
        measured = {name for result in chosen for name in result.mean}
        factors = sorted(name for name in measured if re.fullmatch(r"factor\d+\.rank1", name))
        names |= {name: f"Rank-1 at r = {name[6:].split('.')[0]}" for name in factors}
        calibrated = {"ece": "ECE", "tpr_at_1e-2": "TPR at FMR 1e-2", "tpr_at_1e-3": "TPR at FMR 1e-3"}
        names |= {f"calibration.{name}": title for name, title in calibrated.items()}
        names = {name: title for name, title in names.items() if name in measured}
        rows = [
            {
                "network": result.network,
                "adapted": "whiten" if result.adapted else "",
                **{title: mean_and_deviation(result, name) for name, title in names.items()},
                "ms/image": f"{result.milliseconds:.1f}",
                "MB": f"{result.megabytes:.1f}",
            }
            for result in chosen
        ]
        table = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
        measured_on = chosen[0].evaluate_on
        trials = f"{chosen[0].trials} trial{'s' if chosen[0].trials > 1 else ''}"
        not_the_test = "" if measured_on == "test" else f"mlr.evaluate_on: {measured_on}, "
        parts.append(
            f"{dataset}, {trials}, {not_the_test}percent, mean ± standard deviation over "
            f"trials; Rank-k is single-shot.\n\n{table}\n"
        )
    return "\n".join(parts)


def mean_and_deviation(result: Result, name: str) -> str:
    """A metric over the trials, as in ``45.9 ± 1.2``; empty if it was not measured."""
    if name not in result.mean:
        return ""
    deviation = f" ± {result.std[name]:.1f}" if result.trials > 1 else ""
    return f"{result.mean[name]:.1f}{deviation}"


def _plot(results: Sequence[Result]) -> str:
    """Rank-1 against the time an image takes, as SVG; the same results give the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    colors = {network: f"C{i}" for i, network in enumerate(dict.fromkeys(each.network for each in results))}
    markers = dict(zip(dict.fromkeys(each.dataset for each in results), cycle("osD^v"), strict=False))
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for each in results:
        color = colors[each.network]
        axes.errorbar(
            each.milliseconds, each.mean["rank1"], each.std["rank1"], fmt=markers[each.dataset],
            color=color, markerfacecolor=color if each.adapted else "white", capsize=3,
        )  # fmt: skip
    handles = [Line2D([], [], color=color, label=network) for network, color in colors.items()]
    point = partial(Line2D, [], [], ls="none", color="gray", markerfacecoloralt="white")
    if len(markers) > 1:
        handles += [point(marker=marker, fillstyle="left", label=name) for name, marker in markers.items()]
    handles += [
        point(marker="o", fillstyle="none", label="as it is"),
        point(marker="o", label="whitened"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    axes.set(xscale="log", xlabel="milliseconds an image", ylabel="Rank-1, single-shot, percent")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.2)
    axes.grid(alpha=0.3)
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "compare"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
