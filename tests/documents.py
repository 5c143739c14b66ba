"""The commands and programs that the pages of the documentation show, in their order."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
SHELL = ("sh", "bash", "console", "")  # a block that is indented and not fenced has no language
_FENCE = re.compile(r"^```(?P<kind>\w*)(?: title=\"[^\"]*\")?$")


@dataclass(frozen=True)
class Block:
    """What a page shows as code: its language, empty where the page names none, and its text."""

    kind: str
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced and the indented blocks of a page below the project's root."""
    return list(_blocks((ROOT / page).read_text().splitlines()))


def _blocks(lines: list[str]) -> Iterator[Block]:
    kind: str | None = None  # of the block that is open
    text: list[str] = []
    for line in [*lines, "end"]:
        fence = _FENCE.match(line)
        if kind is None and fence:
            if text:
                yield Block("", "\n".join(text) + "\n")
            kind, text = fence["kind"], []
        elif kind is not None:
            if line == "```":
                yield Block(kind, "\n".join(text) + "\n")
                kind, text = None, []
            else:
                text.append(line)
        elif line.startswith("    "):
            text.append(line[4:])
        elif text and line:
            yield Block("", "\n".join(text) + "\n")
            text = []


def commands(page: str) -> list[list[str]]:
    """The command lines of each shell block of a page."""
    return [command_lines(block.text) for block in blocks(page) if block.kind in SHELL]


def command_lines(text: str) -> list[str]:
    """One string a command: continued lines are joined, comments and double spaces go."""
    joined = re.sub(r"\\\n\s*", "", text)
    bare = (re.sub(r"(^|\s)#\s.*", "", line) for line in joined.splitlines())
    return [" ".join(line.split()) for line in bare if line.strip()]


def inline_commands(page: str, program: str) -> list[str]:
    """What a page's running text has as ``program ...`` in backticks."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(rf"`({program} [^`]+)`", text.replace("\n", " "))
