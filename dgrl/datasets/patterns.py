"""Regular expressions for the names of files, as people give them."""

import regex

from dgrl.errors import InputError

MATCH_SECONDS = 2  # for one name: some patterns take years


def compile_pattern(pattern: str) -> regex.Pattern[str]:
    """Compile a pattern.

    Raises:
        ValueError: saying what is wrong with it.
    """
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"is no regular expression ({error})") from None


def match_name(expression: regex.Pattern[str], name: str, where: str) -> regex.Match[str] | None:
    """Match a whole name.

    Args:
        expression: the pattern.
        name: of a file.
        where: it is, for the message.

    Raises:
        InputError: if it takes more than ``MATCH_SECONDS``.
    """
    try:
        return expression.fullmatch(name, timeout=MATCH_SECONDS)
    except TimeoutError:
        raise InputError(
            f"the pattern {expression.pattern!r} takes more than {MATCH_SECONDS} s for {where}; repeat no "
            "group that is itself repeated or has alternatives, as in (a+)+"
        ) from None
