"""The paper's Tables I to III, and one it does not have: the params that make each row, and its metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

TableName = Literal["I", "II", "III", "sr"]
TableFormat = Literal["markdown", "csv", "latex"]
AblationName = Literal["losses", "components", "sr"]
Shot = Literal["single", "multi"]  # one gallery image of a person, or all of them
Metrics = tuple[float, float, float]  # Rank-1, Rank-5, Rank-10 in percent

DATASET_TITLES = {
    "market1501": "MLR-Market-1501",
    "cuhk03": "MLR-CUHK03",
    "viper": "MLR-VIPeR",
    "caviar": "CAVIAR",
}  # in the order of Table I

SHOTS: Mapping[str, tuple[Shot, ...]] = {"market1501": ("multi", "single")}
"""Where not single-shot alone; the first is customary, and has the papers' metrics beside it.

IV-B says single-shot, whatever the set. Public code of cross-resolution re-ID is single-shot on CAVIAR,
CUHK03 and VIPeR, and on Market-1501 multi-shot, as that set's own protocol is.
"""

FULL: Mapping[str, bool | float | str] = {
    "loss.wrt": True,
    "loss.l1": True,
    "loss.kl": 1.0,
    "model.non_local": True,
    "model.side_branches": True,
    "model.galn": True,
    "model.restormer": True,
}  # the switches of the complete DGRL


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        label: as the paper calls it.
        name: for experiments; empty for a row that is the paper's alone.
        params: what makes an experiment one of this row; empty likewise.
        paper: the paper's metrics by dataset.
    """

    label: str
    name: str = ""
    params: Mapping[str, bool | float | str] = field(default_factory=dict)
    paper: Mapping[str, Metrics] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """What a table shows.

    Args:
        caption: what is compared.
        heading: of the first column.
        rows: from top to bottom.
        where: params of the paper's experiments that are no row; another value must be asked for.
        wide: one column group per dataset, as Table I; else one block of rows per dataset.
    """

    caption: str
    heading: str
    rows: tuple[Row, ...]
    where: Mapping[str, bool | float | str] = field(default_factory=dict)
    wide: bool = False


def _table_1(label: str, *metrics: Metrics | None) -> Row:
    known = zip(DATASET_TITLES, metrics, strict=True)
    return Row(label, paper={dataset: ranks for dataset, ranks in known if ranks})


def _market(rank1: float, rank5: float, rank10: float) -> Mapping[str, Metrics]:
    return {"market1501": (rank1, rank5, rank10)}


_RCAN: Mapping[str, bool | float | str] = {"sr.method": "rcan"}  # IV-C

_DGRL = _table_1(
    "DGRL (paper)", (93.9, 98.0, 98.8), (98.1, 99.6, 99.6), (45.9, 73.7, 83.9), (52.4, 78.0, 84.8)
)

_RIVALS = (
    _table_1("CamStyle", (74.5, 88.6, 93.0), (69.1, 89.6, 93.9), (34.4, 56.8, 66.6), (32.1, 72.3, 85.9)),
    _table_1("PyrNet", (83.8, 93.3, 95.6), (83.9, 97.1, 98.5), None, (43.6, 79.2, 90.4)),
    _table_1("FD-GAN", (79.6, 91.6, 93.5), (73.4, 93.8, 97.9), (39.1, 62.1, 72.5), (33.5, 71.4, 86.5)),
    _table_1("SING", (74.4, 87.8, 91.6), (67.7, 90.7, 94.7), (33.5, 57.0, 66.5), (33.5, 72.7, 89.0)),
    _table_1("CAD-Net", (83.7, 92.7, 95.8), (82.1, 97.4, 98.8), (43.1, 68.2, 77.5), (42.8, 76.2, 91.5)),
    _table_1("INTACT", (88.1, 95.0, 96.9), (86.4, 97.4, 98.5), (46.2, 73.1, 81.6), (44.0, 81.8, 93.9)),
    _table_1("PRI", (84.9, 93.5, 96.1), (85.2, 97.5, 98.8), None, (43.2, 78.5, 91.9)),
    _table_1("PCB+PRI", (88.1, 94.2, 96.5), (86.2, 97.9, 99.1), None, (44.3, 83.7, 94.8)),
    _table_1("PyrNet+PRI", (86.9, 93.8, 96.4), (86.5, 97.7, 99.1), None, (45.2, 84.1, 94.6)),
    _table_1("PS-HRNet", (91.5, 96.7, 97.9), (92.6, 98.3, 99.4), (48.7, 73.4, 81.7), (48.2, 84.5, 96.3)),
)

_LOSSES = (
    Row("ID", "id", {**FULL, "loss.wrt": False, "loss.l1": False, "loss.kl": 0.0}, _market(89.9, 96.3, 97.8)),
    Row("ID + WRT", "wrt", {**FULL, "loss.l1": False, "loss.kl": 0.0}, _market(92.9, 97.3, 98.6)),
    Row("ID + WRT + L1", "l1", {**FULL, "loss.kl": 0.0}, _market(93.2, 97.9, 98.7)),
    Row("ID + WRT + L1 + KLDiv", "kl", FULL, _market(93.9, 98.0, 98.8)),
)

_NO_RESTORMER = {**FULL, "model.restormer": False}
_NON_LOCAL = {**_NO_RESTORMER, "model.galn": False, "model.side_branches": False}
_COMPONENTS = (
    Row("baseline", "baseline", {**_NON_LOCAL, "model.non_local": False}, _market(87.0, 94.7, 95.8)),
    Row("+ non-local attention", "non-local", _NON_LOCAL, _market(87.5, 95.0, 96.8)),
    Row("+ GALN, with side branches", "galn", _NO_RESTORMER, _market(93.3, 98.0, 98.7)),
    Row("+ Restormer", "restormer", FULL, _market(93.9, 98.0, 98.8)),
)

_SR = (
    Row("none", "none", {**FULL, "sr.method": "none"}),
    Row("bicubic", "bicubic", {**FULL, "sr.method": "bicubic"}),
    Row("RCAN", "rcan", {**FULL, "sr.method": "rcan"}, _DGRL.paper),
)

TABLES: Mapping[TableName, Table] = {
    "I": Table(
        "Cross-resolution person re-identification",
        "Method",
        (*_RIVALS, _DGRL, Row("DGRL (this project)", "dgrl", FULL)),
        _RCAN,
        wide=True,
    ),
    "II": Table("Loss functions of DGRL", "Supervision", _LOSSES, _RCAN),
    "III": Table("Components of DGRL", "Components", _COMPONENTS, _RCAN),
    "sr": Table("Super-resolution before DGRL", "Super-resolution", _SR),
}

ABLATIONS: Mapping[AblationName, Table] = {
    "losses": TABLES["II"],
    "components": TABLES["III"],
    "sr": TABLES["sr"],
}


def published_metrics(dataset: str) -> Metrics | None:
    """The paper's metrics of DGRL on a dataset (Table I); None where it has none."""
    rows = {row.label: row.paper for row in TABLES["I"].rows}
    return rows["DGRL (paper)"].get(dataset)
