"""Patterns that people give for names: whatever they are, an answer comes in seconds."""

import time

import pytest

from dgrl.datasets import patterns
from dgrl.datasets.patterns import NameMatcher, compile_pattern
from dgrl.errors import InputError


@pytest.mark.parametrize("pattern", ["(", "(?P<a>", "a{2}{3}**", "(" * 5000 + ")" * 5000, "["])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no regular expression"):
        compile_pattern(pattern)


def test_many_names_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is within it; all of them would take minutes."""
    monkeypatch.setattr(patterns, "FIRST_SECONDS", 0.2)
    matcher = NameMatcher(compile_pattern("(a|aa)+b"), "the names")
    begun = time.process_time()
    with pytest.raises(InputError, match="takes too long for the names; repeat no group"):  # noqa: PT012
        for _ in range(10_000):
            assert matcher.match("a" * 18) is None
    assert time.process_time() - begun < 60


def test_sound_patterns_have_time_for_any_number_of_names() -> None:
    matcher = NameMatcher(compile_pattern(r"(?P<person>\d+)_.*"), "the names")
    assert all(matcher.match(f"{number}_x") for number in range(20_000))
