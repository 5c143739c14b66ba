"""Small archives as zip files and as folders, and what the adapters' tests ask of each of them."""

import zipfile
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from dgrl.errors import InputError
from dgrl.tables import KEYS, ImageRow

Members = dict[str, bytes]


def pack(path: Path, members: Members, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def unpack(folder: Path, members: Members) -> Path:
    for name, data in members.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


def keys(rows: Iterable[ImageRow]) -> pd.DataFrame:
    return pd.DataFrame([asdict(row) for row in rows])[KEYS]


def message_of(read: Callable[[Path], object], archive: Path) -> str:
    """The one-line message that names the archive; reading writes nothing beside it."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(InputError) as caught:
        read(archive)
    assert sorted(archive.parent.rglob("*")) == before
    message = str(caught.value)
    assert "\n" not in message
    assert str(archive) in message
    return message
