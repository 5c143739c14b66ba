"""Stages killed at random moments, alone and in pairs: a few kills of benchmarks/kills.py, or all."""

import sys
from pathlib import Path

import pytest
from trust import WHOLE, record

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from kills import Failure, kill_stages

SEED = 0


@pytest.mark.slow
def test_killed_stages_end_with_the_bytes_of_undisturbed_ones() -> None:
    try:
        kills, outcome = kill_stages(100 if WHOLE else 10, SEED)
    except Failure as failure:
        record("a process is killed", 0, f"FAILED: {str(failure)[:200]}", "tests/test_kills.py")
        raise
    record("dvc, a stage, a child or one of two stages is killed", kills, outcome, "tests/test_kills.py")
    assert kills >= 10
