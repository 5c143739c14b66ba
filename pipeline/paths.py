"""Where the stages of a dataset read and write: ``data/<dataset>/...``, left to right."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the stage inputs must be quick
    from dgrl.config import Section

DROP = "data/drop"  # archives put there by hand


def outside(name: str) -> Path:
    """A file or folder that a param names: below the working directory, else below the project's root.

    A queued experiment runs in a copy that has git's files only; DVC_ROOT is the project it came from.
    """
    root = Path(os.environ.get("DVC_ROOT", "."), name)
    return root if not exists(Path(name)) and exists(root) else Path(name)


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; not if its name is none, such as one that is too long."""
    return os.path.exists(path)  # noqa: PTH110 (Path.exists raises for such names)


def located(source: "Section") -> Any:
    """A section of ``source`` whose files, but for its archive, are where they are found from here."""
    named = {key: getattr(source, key, None) for key in ("root", "table", "new_protocol")}
    update: dict[str, Any] = {key: str(outside(name)) for key, name in named.items() if name}
    if sets := getattr(source, "sets", None):
        update["sets"] = {name: located(each) for name, each in sets.items()}
    return source.model_copy(update=update)


def dropped(kind: str) -> Path | None:
    """The first entry of the drop folder whose name begins with the kind's; case and punctuation are ignored.

    ``Market-1501-v15.09.15.zip`` is of the kind market1501, ``CUHK01.zip`` is of no kind.

    Raises:
        OSError: if the folder cannot be read.
    """
    folder = outside(DROP)
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        if re.sub(r"[\W_]", "", entry.name.lower()).startswith(kind):
            return entry
    return None


@dataclass(frozen=True)
class Paths:
    """The files of one dataset."""

    dataset: str

    @property
    def root(self) -> Path:
        return Path("data") / self.dataset

    @property
    def forgotten(self) -> Path:
        """The persons whom ``dgrl forget`` removed; beside params.yaml, for git."""
        return Path("forgotten") / f"{self.dataset}.json"

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
    def losses(self) -> Path:
        """Of each logged step, a column a loss term."""
        return self.root / "dgrl/losses.csv"

    @property
    def sr_options(self) -> Path:
        """How the SR tables were made."""
        return self.root / "sr/options.json"

    @property
    def eval(self) -> Path:
        return self.root / "eval"

    def inputs(self, what: str) -> Path:
        """Digests of what lies outside of the project: source, rcan or weights."""
        return self.root / f"inputs/{what}.json"

    def mlr(self, table: str) -> Path:
        """Table train_hr, train_lr, query or gallery."""
        return self.root / "mlr" / table

    def rcan(self, scale: int) -> Path:
        return self.root / "rcan" / f"x{scale}"

    def rcan_scales(self) -> list[int]:
        """Those that there are."""
        return sorted(int(folder.name[1:]) for folder in (self.root / "rcan").glob("x[0-9]"))

    def sr(self, table: str) -> Path:
        """Table train or query."""
        return self.root / "sr" / table
