"""Regular expressions for the names of files, as people give them."""

import time

import regex

from dgrl.errors import InputError

FIRST_SECONDS = 2.0  # some patterns take years for one name
SECONDS = 0.001  # for each name beside; a sound pattern takes microseconds


def compile_pattern(pattern: str) -> regex.Pattern[str]:
    """Compile a pattern.

    Raises:
        ValueError: saying what is wrong with it.
    """
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is no regular expression ({error})") from None


class NameMatcher:
    """A pattern for the names of many files, which together take no more than a bounded time.

    Args:
        expression: the pattern.
        where: the files are, for the message.
    """

    def __init__(self, expression: regex.Pattern[str], where: str) -> None:
        self.expression, self.where = expression, where
        self._left = FIRST_SECONDS

    def match(self, name: str) -> regex.Match[str] | None:
        """Match a whole name.

        Raises:
            InputError: if the names have taken more than ``FIRST_SECONDS``, and ``SECONDS`` each.
        """
        self._left += SECONDS
        begun = time.perf_counter()
        try:
            return self.expression.fullmatch(name, timeout=self._left)
        except TimeoutError:
            raise InputError(
                f"the pattern {self.expression.pattern!r} takes too long for {self.where}; repeat no group "
                "that is itself repeated or has alternatives, as in (a+)+"
            ) from None
        finally:
            self._left = max(0.0, self._left - (time.perf_counter() - begun))
