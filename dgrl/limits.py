"""How large an input may be: what exceeds a limit is refused before memory is taken for it."""

from typing import Annotated

from pydantic import Field

from dgrl.config import Section
from dgrl.errors import InputError

Positive = Annotated[int, Field(ge=1)]


class Limits(Section):
    """The section ``limits``. No result depends on them."""

    image_pixels: Positive = 64 * 2**20  # of an image; an array of a .mat file: three numbers a pixel
    file_bytes: Positive = 256 * 2**20  # of a file in an archive or a folder, unpacked
    zip_ratio: Positive = 1000  # of the size of a file in a zip archive to that of its packed bytes
    table_rows: Positive = 10_000_000  # of a table of own images


_current = Limits()


def limits() -> Limits:
    """Those of this process."""
    return _current


def check_size(name: str, size: int, least: int = 0) -> None:
    """Refuse a file of more bytes than the limit ``file_bytes``.

    Args:
        name: of the file, for the message.
        size: bytes.
        least: bytes that it may have, whatever the limit is.

    Raises:
        InputError: if it is larger.
    """
    limit = max(least, _current.file_bytes)
    if size > limit:
        raise InputError(
            f"{name} has {size} bytes, more than the limit of {limit}; leave it out, or raise "
            "limits.file_bytes"
        )


def use(wanted: Limits) -> None:
    """Make ``wanted`` the limits of this process."""
    global _current
    _current = wanted
