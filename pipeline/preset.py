"""Presets: what differs from the defaults, which are the paper's, or from another preset."""

import shutil
from itertools import count
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from dgrl.datasets.catalog import KINDS
from dgrl.errors import InputError
from dgrl.files import atomic_file
from pipeline.params import Params
from pipeline.params_file import read_yaml

PRESETS = Path("presets")
REPLACED = ("sets", "query_factor_per")  # mappings that are one value: a new one replaces the whole


def preset(name: str, file: Path = Path("params.yaml"), *, force: bool = False) -> Path | None:
    """Set every value of ``params.yaml`` to a preset's; the comments stay.

    Args:
        name: of the preset.
        file: what to change.
        force: whether values that are no preset's may be lost.

    Returns:
        Where the file is kept as it was, if its values were no preset's.

    Raises:
        InputError: if there is no such preset, or the file is missing or no YAML.
    """
    values = preset_values(name)
    Params.parse(values, "", f"{PRESETS / name}.yaml")
    backup = None if force else keep_edited(file)
    write_params(values, file)
    return backup


def keep_edited(file: Path) -> Path | None:
    """Copy params whose values are no preset's to ``<file>.<number>.bak``; returns where, if so.

    Raises:
        InputError: if the file is missing or no YAML.
    """
    values = read_yaml(file)
    if any(values == preset_values(path.stem) for path in PRESETS.glob("*.yaml")):
        return None
    names = (file.with_name(f"{file.name}.{number}.bak") for number in count(1))
    backup = next(name for name in names if not name.exists())
    with atomic_file(backup) as building:
        shutil.copyfile(file, building)
    return backup


def write_params(values: dict[str, Any], file: Path) -> None:
    """Set values of a params file, section by section; its other values and its comments stay.

    Raises:
        InputError: if the file is missing or no YAML.
    """
    read_yaml(file)  # ruamel's other loader, which keeps comments, has no message for a person
    yaml = YAML()  # keeps comments
    yaml.preserve_quotes = True
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 200
    content = yaml.load(file)
    _assign(content, values)
    with atomic_file(file) as building:
        yaml.dump(content, building)


def preset_values(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The whole of a preset: the defaults or the preset that it names as ``base``, and what it has instead.

    Args:
        name: of the preset.
        above: the presets whose bases led here, the one that was asked for first.

    Raises:
        InputError: if there is no such preset, or it is its own base.
    """
    allowed = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if name not in allowed:
        where = f"{PRESETS / above[-1]}.yaml: base: " if above else ""
        known = ", ".join(allowed) or "none: not in the project folder"
        raise InputError(f"{where}no preset {name!r} here (allowed: {known})")
    if name in above:
        raise InputError(f"{PRESETS / name}.yaml: base: {' -> '.join([*above, name])} has no end")
    changes = read_yaml(PRESETS / f"{name}.yaml")
    base = changes.pop("base", None)
    values = _all_defaults() if base is None else preset_values(base, (*above, name))
    _assign(values, changes)
    return values


def _all_defaults() -> dict[str, Any]:
    sections = {key: field.annotation for key, field in Params.model_fields.items()}
    values = {
        key: _defaults(section) for key, section in sections.items() if key not in ("datasets", "source")
    }
    values["source"] = {kind: _defaults(entry.params) for kind, entry in KINDS.items()}
    values["mlr"]["lr_camera"] = {kind: entry.lr_camera for kind, entry in KINDS.items()}
    return values


def _defaults(section: Any) -> dict[str, Any]:
    """Of the keys that have one, as YAML has them."""
    values: dict[str, Any] = section.model_construct().model_dump(mode="json")
    return values


def _assign(target: Any, values: dict[str, Any]) -> None:
    """Set values in place, section by section; a section's other keys stay."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict) and key not in REPLACED:
            _assign(target[key], value)
        else:
            target[key] = value
