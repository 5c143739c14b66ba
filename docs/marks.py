"""The parts of a page that a script writes, between marks that a reader of the page does not see."""

from pathlib import Path

from dgrl.files import atomic_file


def with_part(page: str, name: str, text: str) -> str:
    """A page with a text between ``<!-- name: begin -->`` and ``<!-- name: end -->``."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}{text}{end}{rest.partition(end)[2]}"


def write_part(page: Path, name: str, text: str) -> None:
    """Write ``with_part`` of a file into it."""
    changed = with_part(page.read_text(), name, text)
    with atomic_file(page) as file:
        file.write_text(changed)
