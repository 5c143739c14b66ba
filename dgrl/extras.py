"""Packages that only an extra of this one installs."""

from importlib import import_module
from typing import Any

from dgrl.errors import InputError


def package(name: str, extra: str, purpose: str, instead: str = "") -> Any:
    """Import a package when it is needed.

    Args:
        name: of the package.
        extra: of dgrl that installs it.
        purpose: what needs it, the subject of the message.
        instead: what else would do, the end of the message.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise InputError(f"{purpose} needs {name}; pip install 'dgrl[{extra}]'{instead}") from None
