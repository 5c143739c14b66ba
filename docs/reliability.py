"""Write the generated parts of docs/reliability.md.

python docs/reliability.py faults FOLDER     the table of faults, of what `make trust` has left in FOLDER
python docs/reliability.py licences          the licences of the dependencies, of the installed packages
"""

import json
import platform
import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from marks import write_part

PAGE = Path(__file__).with_name("reliability.md")
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def main() -> None:
    """Replace one part of the page."""
    part = sys.argv[1]
    lines = faults(Path(sys.argv[2])) if part == "faults" else licences()
    write_part(PAGE, part, "".join(f"{line}\n" for line in lines))


def faults(folder: Path) -> list[str]:
    """The table of a run, and what it ran on."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not rows:
        sys.exit(f"error: {folder} holds no results; run make trust")
    total = f"{sum(row['tried'] for row in rows):,} cases, Python {platform.python_version()}."
    cells = ([row["fault"], f"{row['tried']:,}", row["outcome"], f"`{row['test']}`"] for row in rows)
    return [total, "", *table(["fault", "times tried", "outcome", "test"], cells)]


def licences() -> list[str]:
    """The licence of each package of constraints.txt that is installed, as the package says."""
    names = [line.partition("==")[0] for line in CONSTRAINTS.read_text().splitlines() if "==" in line]
    cells = []
    for name in names:
        try:
            cells.append([name, licence(distribution(name))])
        except PackageNotFoundError:  # of another platform or extra
            cells.append([name, "(not installed here)"])
    return table(["package", "licence"], cells)


def licence(package: Distribution) -> str:
    """The SPDX expression, else the classifiers, else the first line of the field."""
    data: Any = package.metadata  # an email.message.Message
    if expression := data.get("License-Expression"):
        return str(expression)
    classified = [
        text.rpartition(" :: ")[2]
        for text in data.get_all("Classifier") or []
        if text.startswith("License :: ") and text != "License :: OSI Approved"
    ]
    first = re.split(r"[\n;]", data.get("License") or "")[0].strip()
    return ", ".join(classified) or first[:80] or "(not said)"


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


if __name__ == "__main__":
    main()
