"""Tables: runs become the right lines, nothing is mixed, and what is left out is said."""

import csv
import io
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markdown_table import markdown

from dgrl.errors import InputError
from pipeline.experiments.ablate import flat
from pipeline.experiments.paper import FULL, TABLES
from pipeline.experiments.render import Line, render
from pipeline.experiments.table import parse_choices, preset_note, read_runs, summarise
from pipeline.preset import preset_values

ROOT = Path(__file__).parents[1]

USUAL = {**FULL, "sr.method": "rcan", "train.seed": 0, "mlr.trial": 0, "train.epochs": 40, "loss.gamma": 5.0}
SHOTS = ("multi-shot (customary)", "single-shot")  # of Market-1501
BASELINE = dict.fromkeys(["model.non_local", "model.galn", "model.side_branches", "model.restormer"], False)


def run(rank1: float, dataset: str = "viper", **params: Any) -> dict[str, Any]:
    """A record of a run whose Rank-5 and Rank-10 are 10 and 20 higher, and half as far from 100 multi-shot.

    ``loss__kl`` stands for loss.kl.
    """
    own = {key.replace("__", "."): value for key, value in params.items()}
    metrics = {"rank1": rank1, "rank5": rank1 + 10, "rank10": rank1 + 20}
    metrics |= {f"multi_shot.{name}": 50 + value / 2 for name, value in metrics.items()}
    return {"experiment": f"run-{rank1:g}", "commit": "abc", "dataset": dataset, **metrics, **USUAL, **own}


def frame(*records: Mapping[str, Any]) -> pd.DataFrame:
    runs = pd.DataFrame(records, dtype=object)
    return runs.where(runs.notna(), None)


def ours(lines: list[Line]) -> dict[tuple[str, str, str], Line]:
    return {(line.dataset, line.row, line.settings): line for line in lines if line.n}


# Lines


def test_mean_and_sample_deviation_are_over_seeds_and_trials() -> None:
    ranks = [40.0, 41.0, 45.5, 47.0]
    runs = frame(*(run(rank, train__seed=i % 2, mlr__trial=i // 2) for i, rank in enumerate(ranks)))
    lines, notes = summarise(runs, TABLES["II"])
    assert [line.row for line in lines] == ["ID", "ID + WRT", "ID + WRT + L1", "ID + WRT + L1 + KLDiv"]
    assert [line.n for line in lines] == [0, 0, 0, 4]
    mean, deviation = statistics.mean(ranks), statistics.stdev(ranks)
    assert lines[3].mean == pytest.approx((mean, mean + 10, mean + 20))
    assert lines[3].std == pytest.approx((deviation,) * 3)
    assert lines[0].mean is lines[0].std is None
    assert notes == []


def test_one_run_has_no_deviation() -> None:
    line = summarise(frame(run(40.0)), TABLES["II"])[0][3]
    assert (line.n, line.mean, line.std) == (1, (40.0, 50.0, 60.0), None)


def test_a_row_is_known_by_its_params() -> None:
    baseline: Any = {key.replace(".", "__"): value for key, value in BASELINE.items()}
    runs = frame(run(40.0), run(30.0, **baseline))
    found = {key[1]: line.mean for key, line in ours(summarise(runs, TABLES["III"])[0]).items()}
    assert found == {"baseline": (30.0, 40.0, 50.0), "+ Restormer": (40.0, 50.0, 60.0)}
    assert [line.row for line in ours(summarise(runs, TABLES["II"])[0]).values()] == ["ID + WRT + L1 + KLDiv"]
    assert [line.row for line in ours(summarise(runs, TABLES["I"])[0]).values()] == ["DGRL (this project)"]


def test_runs_of_no_row_are_of_no_line() -> None:
    assert ours(summarise(frame(run(40.0, loss__wrt=False)), TABLES["II"])[0]) == {}


def test_other_settings_are_other_lines_that_name_them() -> None:
    runs = frame(
        run(40.0),
        run(42.0, train__seed=1),
        run(50.0, train__epochs=70),
        run(20.0, loss__kl=False, train__epochs=70),
    )
    lines, _ = summarise(runs, TABLES["II"])
    assert [(line.row, line.settings) for line in lines] == [
        (row.label, settings)
        for settings in ("train.epochs=40", "train.epochs=70")
        for row in TABLES["II"].rows
    ]
    assert {key[1:]: (line.n, line.mean and line.mean[0]) for key, line in ours(lines).items()} == {
        ("ID + WRT + L1 + KLDiv", "train.epochs=40"): (2, 41.0),
        ("ID + WRT + L1 + KLDiv", "train.epochs=70"): (1, 50.0),
        ("ID + WRT + L1", "train.epochs=70"): (1, 20.0),
    }


def test_a_param_that_older_runs_lack_is_a_setting_too() -> None:
    lines, _ = summarise(frame(run(40.0), run(41.0, train__seed=1, loss__form="stable")), TABLES["II"])
    assert {key[2] for key in ours(lines)} == {"loss.form=null", "loss.form=stable"}


def test_a_run_of_other_params_than_the_commits_is_no_row_of_an_ablation() -> None:
    runs = frame(run(40.0, loss__gamma=1.0), run(41.0, loss__gamma=5.0, train__seed=1))
    committed = {"loss.gamma": 5.0, "train.epochs": 40, "train.seed": 7, "loss.kl": 0.0}
    lines, notes = summarise(runs, TABLES["II"], committed=committed)
    assert {key[2]: line.mean for key, line in ours(lines).items()} == {"": (41.0, 51.0, 61.0)}
    assert notes == ["left out on viper, not as params.yaml: run-40 (loss.gamma=1; --where counts it)"]
    lines, _ = summarise(runs, TABLES["II"], where={"loss.gamma": 1.0}, committed=committed)
    assert {key[2]: line.n for key, line in ours(lines).items()} == {"loss.gamma=1": 1}


def test_a_param_in_which_all_runs_differ_from_the_commit_is_named() -> None:
    runs = frame(run(40.0, loss__gamma=1.0), run(41.0, loss__gamma=1.0, train__seed=1))
    lines, _ = summarise(runs, TABLES["I"], committed={"loss.gamma": 5.0, "train.epochs": 40})
    assert {key[2]: line.n for key, line in ours(lines).items()} == {"loss.gamma=1": 2}


def test_what_the_commit_has_in_no_preset_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    committed = dict(flat(preset_values("viper-laptop"))) | {"train.seed": 3, "mlr.trial": 2}
    assert preset_note(committed) == []
    assert preset_note(committed | {"loss.gamma": 1.0}) == [
        "params.yaml as committed differs from the preset viper-laptop in loss.gamma=1 (preset: 5)"
    ]


def test_a_choice_settles_which_runs_count() -> None:
    runs = frame(run(40.0), run(50.0, train__epochs=70, mlr__factors="2 3"))
    for choice in ("train.epochs=70", "mlr.factors=[2, 3]"):
        lines, _ = summarise(runs, TABLES["II"], where=parse_choices([choice]))
        assert {key[2]: line.mean for key, line in ours(lines).items()} == {"": (50.0, 60.0, 70.0)}
    lines, _ = summarise(runs, TABLES["II"], where=parse_choices(["mlr.factors=null"]))
    assert [line.mean for line in ours(lines).values()] == [(40.0, 50.0, 60.0)]


def test_runs_without_rcan_count_only_when_asked_for() -> None:
    runs = frame(run(40.0), run(35.0, sr__method="bicubic"))
    lines, notes = summarise(runs, TABLES["II"])
    assert [line.mean for line in ours(lines).values()] == [(40.0, 50.0, 60.0)]
    assert notes == ["left out, not sr.method=rcan: 1 runs (--where chooses others)"]
    lines, notes = summarise(runs, TABLES["II"], where={"sr.method": "bicubic"})
    assert [line.mean for line in ours(lines).values()] == [(35.0, 45.0, 55.0)]
    assert notes == []
    lines, notes = summarise(runs, TABLES["sr"])
    assert {key[1]: (line.mean, line.paper) for key, line in ours(lines).items()} == {
        "RCAN": ((40.0, 50.0, 60.0), (45.9, 73.7, 83.9)),
        "bicubic": ((35.0, 45.0, 55.0), None),
    }
    assert notes == []


def test_a_repeated_run_counts_once() -> None:
    lines, notes = summarise(frame(run(40.0), run(40.0)), TABLES["II"])
    assert [line.n for line in ours(lines).values()] == [1]
    assert notes == ["used once on viper, same params and seeds as another: run-40"]
    lines, notes = summarise(frame(run(40.0), run(41.0)), TABLES["II"])
    assert [line.mean for line in ours(lines).values()] == [(40.0, 50.0, 60.0)]
    assert "run-41, though their metrics differ" in notes[0]


def test_rows_of_different_seeds_are_noted() -> None:
    full = [run(40.0 + trial, mlr__trial=trial) for trial in range(3)]
    less = [run(30.0 + trial, mlr__trial=trial, loss__kl=0.0) for trial in range(3)]
    assert summarise(frame(*full, *less), TABLES["II"])[1] == []
    _, (note,) = summarise(frame(*full, *less[:1]), TABLES["II"])
    assert "different seeds or trials" in note
    assert "ID + WRT + L1: 1, ID + WRT + L1 + KLDiv: 3;" in note
    assert summarise(frame(*full, *less[:1]), TABLES["II"], where={"mlr.trial": 0})[1] == []
    assert summarise(frame(*full, *less[:1]), TABLES["I"])[1] == []


def test_a_dataset_depends_on_its_own_settings_only() -> None:
    runs = frame(
        run(40.0, datasets="viper", source__viper__archive=None, source__caviar__archive=None),
        run(42.0, datasets="viper caviar", source__caviar__archive="there", train__seed=1),
        run(50.0, "caviar", datasets="viper caviar", source__caviar__archive="there"),
        run(44.0, datasets="viper", source__viper__archive="here"),
    )
    lines, notes = summarise(runs, TABLES["I"])
    assert {key[::2]: line.n for key, line in ours(lines).items()} == {
        ("viper", "source.viper.archive=null"): 2,
        ("viper", "source.viper.archive=here"): 1,
        ("caviar", ""): 1,
    }
    assert notes == []


def test_one_dataset_can_be_chosen() -> None:
    runs = frame(run(40.0), run(50.0, "market1501"))
    for name in ("I", "II"):
        assert {line.dataset for line in summarise(runs, TABLES[name], "market1501")[0]} == {"market1501"}
    assert {line.dataset for line in summarise(runs, TABLES["II"])[0]} == {"viper", "market1501"}


def test_settings_that_differ_between_datasets_are_noted() -> None:
    runs = frame(run(40.0), run(50.0, "market1501", train__epochs=70))
    assert summarise(runs, TABLES["I"])[1] == ["the datasets' runs differ in train.epochs"]


def test_runs_of_several_commits_are_noted() -> None:
    runs = frame(run(40.0), run(41.0, train__seed=1) | {"commit": "def"})
    assert summarise(runs, TABLES["II"])[1] == ["the runs are of 2 commits, whose code may differ: abc, def"]


def test_metrics_on_validation_persons_say_so() -> None:
    assert {key[2] for key in ours(summarise(frame(run(40.0, mlr__evaluate_on="test")), TABLES["I"])[0])} == {
        ""
    }
    lines, _ = summarise(frame(run(40.0, mlr__evaluate_on="val")), TABLES["I"])
    assert {key[2] for key in ours(lines)} == {"mlr.evaluate_on=val"}


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("train.epochs", "'train.epochs' is no choice; write key=value"),
        ("=40", "'=40' is no choice"),
        ("train.epochs=[", r"'train.epochs=\[' is no choice"),
        ("train.epoch=40", "there is no param 'train.epoch'"),
        ("rank1=40", "there is no param 'rank1'"),
        ("train.epochs=50", r"train\.epochs=50: no run has it \(there are: 40, 70\)"),
        ("train.epochs={a: 1}", "no run has it"),
    ],
)
def test_a_wrong_choice_is_a_mistake(choice: str, said: str) -> None:
    runs = frame(run(40.0), run(50.0, train__epochs=70))
    with pytest.raises(InputError, match=said):
        summarise(runs, TABLES["II"], where=parse_choices([choice]))


def test_the_papers_metrics_stand_beside_runs_on_the_same_dataset_only() -> None:
    lines, _ = summarise(frame(run(40.0, "synthetic"), run(50.0, "market1501")), TABLES["II"])
    assert {(line.dataset, line.shot): line.paper for line in lines if line.n} == {
        ("synthetic", "single"): None,
        ("market1501", "multi"): (93.9, 98.0, 98.8),
        ("market1501", "single"): None,
    }


def test_market1501_is_shown_multi_and_single_shot() -> None:
    runs = frame(run(40.0, "market1501"), run(42.0, "market1501", train__seed=1), run(40.0))
    lines = [line for line in summarise(runs, TABLES["III"])[0] if line.n]
    assert [(line.dataset, line.shot, line.n, line.mean) for line in lines] == [
        ("market1501", "multi", 2, (70.5, 75.5, 80.5)),
        ("market1501", "single", 2, (41.0, 51.0, 61.0)),
        ("viper", "single", 1, (40.0, 50.0, 60.0)),
    ]
    rows = markdown(render(lines, TABLES["III"], "markdown"))[2:]
    assert [(row[0], row[3]) for row in rows] == [
        ("MLR-Market-1501, multi-shot (customary)", "70.5 ± 0.7"),
        ("MLR-Market-1501, single-shot", "41.0 ± 1.4"),
        ("MLR-VIPeR", "40.0"),
    ]


def test_a_run_without_multi_shot_metrics_counts_single_shot() -> None:
    runs = frame(run(40.0, "market1501") | dict.fromkeys([f"multi_shot.rank{k}" for k in (1, 5, 10)]))
    lines, _ = summarise(runs, TABLES["III"])
    assert [(line.shot, line.mean) for line in lines if line.n] == [("single", (40.0, 50.0, 60.0))]
    text = render(summarise(frame(run(40.0, "synthetic")), TABLES["II"])[0], TABLES["II"], "markdown")
    assert "Paper" not in text
    assert "Market" not in text


# Text


def test_a_row_without_a_run_has_dashes() -> None:
    runs, notes = read_runs([{"rev": "workspace", "experiments": None}])
    assert notes == []
    for name in TABLES:
        lines, notes = summarise(runs, TABLES[name], where={"train.epochs": 3})
        assert ours(lines) == {}
        assert notes == []
        for form in ("markdown", "csv", "latex"):
            assert render(lines, TABLES[name], form)
    rows = markdown(render(summarise(runs, TABLES["II"])[0], TABLES["II"], "markdown"))
    assert rows[0] == [
        "Dataset", "Supervision", "n", "Rank-1", "Rank-5", "Rank-10",
        "Paper Rank-1", "Paper Rank-5", "Paper Rank-10",
    ]  # fmt: skip
    assert rows[2] == [
        "MLR-Market-1501, multi-shot (customary)",
        "ID",
        "0",
        "-",
        "-",
        "-",
        "89.9",
        "96.3",
        "97.8",
    ]
    rows = markdown(render(summarise(runs, TABLES["I"])[0], TABLES["I"], "markdown"))
    assert rows[-1] == ["DGRL (this project)", *["-"] * 15]


def test_table_1_has_the_rivals_above_ours() -> None:
    runs = frame(run(40.0), run(42.0, train__seed=1), run(50.0, "synthetic"), run(30.0, train__epochs=10))
    header, _, *rows = markdown(render(summarise(runs, TABLES["I"])[0], TABLES["I"], "markdown"))
    market = [f"MLR-Market-1501, {shot} Rank-{k}" for shot in SHOTS for k in (1, 5, 10)]
    assert header[:8] == ["Method", "Settings", *market]
    assert header[11:15] == ["MLR-VIPeR Rank-1", "MLR-VIPeR Rank-5", "MLR-VIPeR Rank-10", "MLR-VIPeR n"]
    assert header[-4:] == ["synthetic Rank-1", "synthetic Rank-5", "synthetic Rank-10", "synthetic n"]
    cells = {(row[0], row[1]): row[11:15] + row[-4:] for row in rows}
    dashes = ["-", "-", "-", ""]
    assert cells == {
        **{(row.label, ""): cells[row.label, ""] for row in TABLES["I"].rows[:11]},
        ("DGRL (this project)", "train.epochs=10"): ["30.0", "40.0", "50.0", "1", *dashes],
        ("DGRL (this project)", "train.epochs=40"): ["41.0 ± 1.4", "51.0 ± 1.4", "61.0 ± 1.4", "2", *dashes],
        ("DGRL (this project)", ""): [*dashes, "50.0", "60.0", "70.0", "1"],
    }  # fmt: skip
    assert cells["DGRL (paper)", ""] == ["45.9", "73.7", "83.9", "", *dashes]
    assert cells["PRI", ""] == [*dashes, *dashes]


def test_csv_has_numbers() -> None:
    runs = frame(run(40.0, "market1501"), run(42.0, "market1501", train__seed=1))
    rows = list(csv.DictReader(io.StringIO(render(summarise(runs, TABLES["III"])[0], TABLES["III"], "csv"))))
    assert rows[3] == {
        "dataset": "market1501", "shot": "multi", "row": "+ Restormer", "settings": "", "n": "2",
        "rank1": "70.50", "rank5": "75.50", "rank10": "80.50",
        "rank1_std": "0.71", "rank5_std": "0.71", "rank10_std": "0.71",
        "paper_rank1": "93.90", "paper_rank5": "98.00", "paper_rank10": "98.80",
    }  # fmt: skip
    assert (rows[0]["n"], rows[0]["rank1"], rows[0]["paper_rank1"]) == ("0", "", "87.00")


def test_latex_is_booktabs() -> None:
    runs = frame(
        run(40.0, "market1501"),
        run(42.0, "market1501", train__seed=1),
        run(50.0, "market1501", mlr__lr_camera="cam_b"),
    )
    text = render(summarise(runs, TABLES["II"])[0], TABLES["II"], "latex")
    lines = text.splitlines()
    assert lines[0] == r"\begin{table}"
    assert lines[-1] == r"\end{table}"
    assert r"\multicolumn{7}{c}{} & \multicolumn{3}{c}{Paper} \\" in lines
    assert [line for line in lines if "rule" in line] == [
        r"\toprule", r"\midrule", r"\bottomrule",
    ]  # fmt: skip
    assert any(r"mlr.lr\_camera=cam\_b & 1 & 50.0" in line for line in lines)
    assert any(r"41.0 $\pm$ 1.4 & 51.0 $\pm$ 1.4" in line for line in lines)
    assert {line.count("&") for line in lines if line.endswith(r"\\") and "multi" not in line} == {9}
