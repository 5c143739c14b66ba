"""Reading params.yaml as DVC reads it; without the sections' classes, so that it is quick to import."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dgrl.errors import InputError

MOST_VALUES = 100_000  # few lines of YAML can name one another, and so make more than memory holds


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file of YAML 1.2, which is what DVC reads: 1e-05 is a number, 1:30 is text.

    Raises:
        InputError: if the file is missing, unreadable, no YAML, repeats a key, or is no mapping.
    """
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist here; run dgrl in the project's folder") from None
    except (YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split()).partition(" To suppress this check")[0]
        raise InputError(f"{path} is no valid YAML: {problem}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} has no sections; restore it from git")
    _check_number(values, path)
    return values


def read_value(text: str) -> Any:
    """A single value, as in ``-S key=value``.

    Raises:
        InputError: if it is none.
    """
    try:
        return YAML(typ="safe").load(text)
    except (YAMLError, ValueError, RecursionError):
        raise InputError(f"{text!r} is no value of YAML") from None


def _check_number(values: dict[str, Any], path: Path) -> None:
    """Refuse aliases (``*name``) that stand for endless values, or for very many."""
    waiting: list[Any] = [values]
    for _ in range(MOST_VALUES):
        if not waiting:
            return
        value = waiting.pop()
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    raise InputError(f"{path} has more than {MOST_VALUES} values, aliases included; write out what you need")
