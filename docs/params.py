"""Write docs/params.md: every key of params.yaml, from the typed classes and the comments of params.yaml.

python docs/params.py
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from dgrl.datasets.catalog import KINDS
from pipeline.params import Params

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/params.md"
HEAD = """# Every key of params.yaml

Made by `python docs/params.py` from the typed classes and the comments of `params.yaml`. The defaults of the
classes are the paper's, which presets differ from; `params.yaml` as committed is the preset `synthetic`.
(d): the paper leaves it open.
"""


def page() -> str:
    """The whole page."""
    written = YAML().load((ROOT / "params.yaml").read_text())
    parts = [HEAD]
    for section, field in Params.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            parts.append(table(section, field.annotation, written[section]))
    for kind, entry in KINDS.items():
        parts.append(
            table(f"source, kind: {kind}", entry.params, written["source"].get(kind, CommentedMap()))
        )
    return "\n".join(parts)


def table(title: str, section: type[BaseModel], written: CommentedMap) -> str:
    """A section's keys: the class's default, the preset's value, and the comment."""
    lines = [f"## {title}", "", "| key | default | params.yaml | what |", "|---|---|---|---|"]
    for key, field in section.model_fields.items():
        default = field.get_default(call_default_factory=True)
        value = written.get(key, "")
        cells = (f"`{key}`", _shown(default), _shown(value), _comment(written, key))
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if value is PydanticUndefined:
        return ""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {each}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _comment(written: CommentedMap, key: str) -> str:
    """What stands behind a key, on its line; before a list, behind its name."""
    tokens: list[Any] = [token for token in written.ca.items.get(key, ()) if token is not None]
    first = tokens[0][0] if tokens and isinstance(tokens[0], list) else tokens[0] if tokens else None
    return "" if first is None else str(first.value).split("\n")[0].removeprefix("#").strip()


if __name__ == "__main__":
    PAGE.write_text(page())
