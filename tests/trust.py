"""How much of the fault, kill and fuzz tests is run: a sample, or all where `make trust` sets DGRL_TRUST.

It names a folder, into which each test writes what it has tried; `docs/reliability.py` makes the table of
docs/reliability.md of it.
"""

import json
import os
import re
from pathlib import Path

WHOLE = "DGRL_TRUST" in os.environ


def record(fault: str, tried: int, outcome: str, test: str) -> None:
    """Keep a row of the table for a whole run.

    Args:
        fault: what was done to the program.
        tried: how often.
        outcome: how each of them ended.
        test: what ran it, as pytest takes it.
    """
    if WHOLE:
        row = {"fault": fault, "tried": tried, "outcome": outcome, "test": test}
        name = re.sub(r"[^\w.]+", "-", test)
        Path(os.environ["DGRL_TRUST"], f"{name}.json").write_text(json.dumps(row) + "\n")
