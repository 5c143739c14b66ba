"""The base of every section of ``params.yaml``: frozen, typed, validated."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Strict, ValidationError

from dgrl.errors import InputError

IntTuple = Annotated[tuple[int, ...], Strict(False)]  # YAML has lists, a frozen section has tuples


class Section(BaseModel):
    """A section of ``params.yaml``. A subclass lists its keys, their types and what is allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Any, name: str) -> Self:
        """Validate ``values`` as read from YAML.

        Args:
            values: the mapping of keys to values.
            name: the section's name, for the message.

        Raises:
            InputError: naming each wrong key, its value and what is allowed.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError("; ".join(_explain(cls, name, detail) for detail in error.errors())) from None


def _explain(section: type[Section], name: str, detail: Any) -> str:
    key = ".".join([name, *map(str, detail["loc"])])
    if detail["type"] == "extra_forbidden":
        allowed = ", ".join(section.model_fields) if len(detail["loc"]) == 1 else "see the section's comments"
        return f"params.yaml: {key} is not a known key (allowed: {allowed})"
    if detail["type"] == "missing":
        return f"params.yaml: {key} is missing"
    reason = detail["msg"].removeprefix("Value error, ")
    reason = reason[0].lower() + reason[1:]
    return f"params.yaml: {key} = {detail['input']!r}: {reason}"
