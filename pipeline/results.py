"""Reading the JSON files that earlier stages and commands wrote."""

import json
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any

from dgrl.errors import InputError
from pipeline.paths import Paths, outside

_REMEDY = "delete it and run the stage that writes it"


class _Object(dict[str, Any]):
    """A mapping that names its file where an entry is missing."""

    def __init__(self, path: Path, values: list[tuple[str, Any]]) -> None:
        super().__init__(values)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise InputError(f"{self._path} has no entry {key}; {_REMEDY}")


def official_splits(dataset: str) -> list[list[str]]:
    """The test persons of each official trial; empty where the benchmark lists none."""
    path = Paths(dataset).official_splits
    splits: list[list[str]] = read_json(path, list) if path.exists() else []
    return splits


def forgotten_persons(dataset: str) -> set[str]:
    """Whom ``dgrl forget`` has removed: they are not read from the source again.

    Raises:
        InputError: if their list is damaged.
    """
    path = outside(str(Paths(dataset).forgotten))
    if not path.exists():
        return set()
    try:
        persons = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        persons = None
    if not isinstance(persons, list) or not all(isinstance(person, str) for person in persons):
        raise InputError(
            f'{path} is no list of person_ids such as ["0001", "0002"]; mend it: who is missing there comes '
            "back with the next download"
        )
    return set(persons)


def read_json(path: Path, kind: type | UnionType = dict) -> Any:
    """What a stage wrote; a missing entry of a mapping is an InputError, too.

    Raises:
        InputError: if the file is missing, unreadable, no JSON, or not of ``kind``.
    """
    try:
        content = json.loads(path.read_text("utf-8"), object_pairs_hook=partial(_Object, path))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run the stage that writes it") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give yourself the right to") from None
    except (ValueError, RecursionError):
        content = ...  # of no kind: null may be what a stage wrote
    if not isinstance(content, kind):
        raise InputError(f"{path} is damaged; {_REMEDY}")
    return content
