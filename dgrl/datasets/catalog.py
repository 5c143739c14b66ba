"""The kinds of source that images can come from: an explicit list, one entry each.

A new kind is one file beside this one, with its params and what reads its images, and one entry below.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgrl.config import Section, shown
from dgrl.datasets import caviar, cuhk03, folder, market1501, pool, synthetic, viper
from dgrl.datasets.fetch import RemoteFile
from dgrl.errors import InputError
from dgrl.tables import ImageRow


@dataclass(frozen=True)
class Kind:
    """What the project knows of a kind of source.

    Attributes:
        params: its section of ``source``.
        images: from the params, and the archive (or what ``opened`` makes of it) where the kind has one, to
            one row per image; a pool takes its sets' archives by name.
        lr_camera: the LR camera, or pattern of cameras, that presets name.
        remote: the official archive; None where the params say all.
        splits: the test persons of each official trial, where the benchmark lists them; as ``images``.
        opened: the archive for both of them, where it is dear to open.
    """

    params: type[Section]
    images: Callable[[Any, Any], Iterator[ImageRow]]
    lr_camera: str
    remote: RemoteFile | None = None
    splits: Callable[[Any, Any], list[list[str]]] | None = None
    opened: Callable[[Path], AbstractContextManager[Any]] = nullcontext


KINDS: dict[str, Kind] = {
    "synthetic": Kind(synthetic.SyntheticParams, lambda params, _: synthetic.images(params), "c1"),
    "viper": Kind(viper.ViperParams, lambda _, archive: viper.images(archive), "cam_a", viper.REMOTE),
    "caviar": Kind(caviar.CaviarParams, lambda _, archive: caviar.images(archive), "far", caviar.REMOTE),
    "market1501": Kind(
        market1501.Market1501Params,
        lambda params, archive: market1501.images(archive, params.parts),
        "c1",
        market1501.REMOTE,
    ),
    "cuhk03": Kind(cuhk03.Cuhk03Params, cuhk03.images, "*a", cuhk03.REMOTE, cuhk03.splits, cuhk03.open_mat),
    "folder": Kind(folder.FolderParams, lambda params, _: folder.images(params), "lr:*"),
    "pool": Kind(
        pool.PoolParams,
        lambda params, archives: pool.images(
            {name: _rows(part, archives[name]) for name, part in params.sets.items()}
        ),
        "*:c1",
    ),
}


def _rows(params: Any, archive: Path) -> Iterator[ImageRow]:
    kind = KINDS[params.kind]
    with kind.opened(archive) as opened:
        yield from kind.images(params, opened)


def parse_source(values: Any, name: str) -> Section:
    """The typed params of ``source.<name>``, of the class that its ``kind`` names, by default ``name``.

    Raises:
        InputError: if there is no such kind, or a key or value is wrong.
    """
    kind = values.get("kind", name.rpartition(".")[2]) if isinstance(values, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"source.{name}.kind = {shown(kind)}: allowed: {', '.join(KINDS)}")
    if kind == "pool" and isinstance(sets := values.get("sets"), dict):
        parsed = {part: parse_source(section, f"{name}.sets.{part}") for part, section in sets.items()}
        values = {**values, "sets": parsed}
    return KINDS[kind].params.parse(values, f"source.{name}")
