"""The base of every section of parameters: frozen, typed, validated."""

import reprlib
from typing import Annotated, Any, Self, cast

from pydantic import BaseModel, ConfigDict, Strict, ValidationError

from dgrl.errors import InputError

_SHORT = reprlib.Repr()  # a value may be a megabyte of text, or in YAML far more than the file
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_SHORT.maxlevel = 2
LENGTH = 200  # characters of a value in a message

IntTuple = Annotated[tuple[int, ...], Strict(False)]  # YAML has lists, a frozen section has tuples


class Section(BaseModel):
    """A section of parameters. A subclass lists its keys, their types and what is allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Any, name: str, file: str = "") -> Self:
        """Validate ``values`` as read from YAML.

        Args:
            values: the mapping of keys to values.
            name: the section's name, for the message; empty for the whole file.
            file: where the values come from, for the message; empty where the caller says so.

        Raises:
            InputError: naming each wrong key, its value and what is allowed.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            found = "; ".join(_explain(cls, name, detail) for detail in error.errors())
            raise InputError(": ".join(filter(None, [file, found]))) from None


def shown(value: Any) -> str:
    """A value as Python writes it, for a message: its beginning and end if it is long."""
    text = _SHORT.repr(value)
    return text if len(text) <= LENGTH else f"{text[: LENGTH // 2]}...{text[-LENGTH // 2 :]}"


def _explain(section: type[Section], name: str, detail: Any) -> str:
    key = ".".join(filter(None, [name, *map(str, detail["loc"])]))
    if detail["type"] == "extra_forbidden":
        return f"{key} is not a known key (allowed: {_allowed(section, detail['loc'][:-1])})"
    if detail["type"] == "missing":
        return f"{key} is missing"
    reason = detail["msg"].removeprefix("Value error, ")
    reason = reason[0].lower() + reason[1:]
    if detail["type"] == "string_type" and isinstance(detail["input"], int | float):
        reason = "should be text; put it in quotes, as in '001'"
    if detail["type"] == "value_error" and isinstance(detail["input"], dict):
        return ": ".join(filter(None, [key, reason]))  # of several keys together, which the reason names
    return " = ".join(filter(None, [key, shown(detail["input"])])) + f": {reason}"


def _allowed(section: type[Section], path: tuple[str, ...]) -> str:
    """The keys of the section at ``path`` below ``section``."""
    for key in path:
        section = cast("type[Section]", section.model_fields[key].annotation)
    return ", ".join(section.model_fields)
