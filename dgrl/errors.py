"""What a person caused or can mend, and the one line that says so."""

import errno
import os
import re

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than is allowed here (ulimit -f)",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EIO: "the disk does not answer",
}
_MEMORY = "out of memory; lower the number of workers or the size of the batch, or use a larger machine"


class InputError(Exception):
    """Something the user gave is wrong: a file, a parameter, a dataset.

    The message is one line that names what is wrong, what is allowed and what to do. The command line
    prints it without a traceback and exits with status 1. Line breaks and control characters, which a file
    or another library's message may bring in, become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else " " for c in message))


class DivergedError(InputError):
    """The loss or a weight is not finite; the message names the learning rate."""


class MissingError(InputError):
    """A result of an earlier step is missing or damaged; it must be written again."""


class WorkerError(InputError):
    """Another process of this run was killed; the message says what to lower."""


def explain(error: BaseException) -> str | None:
    """The line for an error that the user or the machine caused; None for one of the program's own."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # which is torch's
        return _MEMORY
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error):  # torch's without a GPU
        return _MEMORY
    if (found := find_os_error(error)) is None:
        return None
    message = str(found) if found.errno is None else os.strerror(found.errno)
    if found.errno in _REASONS:
        message = f"{_REASONS[found.errno]} ({message})"
    line = message if found.filename is None else f"{message}: {found.filename}"
    return " ".join(line.split())


def one_line(error: BaseException) -> str:
    """What a library's error says, in one line of at most 200 characters; its kind if it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def find_os_error(error: BaseException) -> OSError | None:
    """The OSError that is, or lies behind, an error of a library that reads and writes files."""
    if isinstance(error, OSError):
        return error
    kind = type(error).__name__
    if kind == "RuntimeError" and isinstance(error.__context__, OSError):  # torch.save into a file
        return error.__context__
    if kind == "SafetensorError" and (found := re.search(r"\(os error (\d+)\)", str(error))):
        return OSError(int(found[1]), os.strerror(int(found[1])))
    return None
