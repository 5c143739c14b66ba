"""What the fuzz tests share: damaged bytes, and the rule that all is either read or refused in one line."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from trust import WHOLE, record

from dgrl.errors import InputError

T = TypeVar("T")

_tried: list[bool] = []  # of the test: whether each case was read

CASES = 10_000  # of each kind of input in a whole run; a short one tries one in 200


def fuzzed(cases: int = CASES) -> settings:
    """Hypothesis' settings for a test of so many cases in a whole run."""
    return settings(
        max_examples=cases if WHOLE else cases // 200,
        deadline=None,
        database=None,
        derandomize=not WHOLE,
        suppress_health_check=list(HealthCheck),
    )


def attempt(read: Callable[[], T], name: str = "") -> T | None:
    """What was read, or None where an InputError says in one line, with ``name`` in it, why not."""
    _tried.append(False)
    try:
        found = read()
    except InputError as error:
        line = str(error)
        assert line.isprintable(), repr(line)
        assert name in line
        assert len(line) < 5000
        return None
    _tried[-1] = True
    return found


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[None]:
    """Counts the cases of a test for docs/reliability.md."""
    _tried.clear()
    yield
    outcome = f"read {sum(_tried)}, refused in one line {len(_tried) - sum(_tried)}"
    if request.node.rep_call.failed:
        outcome = f"FAILED, {outcome}"
    record(request.function.__doc__.rstrip("."), len(_tried), outcome, request.node.nodeid)


def damaged(good: bytes) -> st.SearchStrategy[bytes]:
    """The bytes after a few of them were overwritten, cut out or put in, and maybe cut short."""
    edit = st.tuples(st.integers(0, len(good)), st.integers(0, 8), st.binary(max_size=8))
    return st.builds(
        _edited, st.just(good), st.lists(edit, max_size=6), st.none() | st.integers(0, len(good))
    )


def _edited(data: bytes, edits: list[tuple[int, int, bytes]], cut: int | None) -> bytes:
    for position, removed, inserted in edits:
        data = data[:position] + inserted + data[position + removed :]
    return data[:cut]
