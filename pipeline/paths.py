"""Where the stages of a dataset read and write: ``data/<dataset>/...``, left to right."""

from dataclasses import dataclass
from pathlib import Path

DROP = Path("data/drop")  # archives put there by hand


@dataclass(frozen=True)
class Paths:
    """The files of one dataset."""

    dataset: str

    @property
    def root(self) -> Path:
        return Path("data") / self.dataset

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def official_splits(self) -> Path:
        """The test persons of each official trial; CUHK03 alone has such."""
        return self.images / "splits.json"

    @property
    def split(self) -> Path:
        return self.root / "mlr/split.json"

    @property
    def model(self) -> Path:
        return self.root / "dgrl/model.safetensors"

    @property
    def config(self) -> Path:
        return self.root / "dgrl/config.json"

    @property
    def live(self) -> Path:
        return self.root / "dgrl/live"

    @property
    def eval(self) -> Path:
        return self.root / "eval"

    def mlr(self, table: str) -> Path:
        """Table train_hr, train_lr, query or gallery."""
        return self.root / "mlr" / table

    def rcan(self, scale: int) -> Path:
        return self.root / "rcan" / f"x{scale}"

    def sr(self, table: str) -> Path:
        """Table train or query."""
        return self.root / "sr" / table
