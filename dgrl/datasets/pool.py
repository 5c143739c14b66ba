"""Several sets as one, for pretraining: their persons train together."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Literal

from pydantic import Field, SerializeAsAny, field_validator

from dgrl.config import Section
from dgrl.errors import InputError
from dgrl.tables import ImageRow


class PoolParams(Section):
    """The sets, each a section as those of ``source``."""

    kind: Literal["pool"] = "pool"
    sets: dict[str, SerializeAsAny[Section]] = Field(default_factory=dict)  # by name

    @field_validator("sets")
    @classmethod
    def _check_names(cls, sets: dict[str, Section]) -> dict[str, Section]:
        for name in sets:
            if not re.fullmatch(r"[\w.-]+", name):  # no colon: <set>:<person> must name one person
                raise ValueError(f"{name!r} is no name of a set; use letters, digits, '.', '_' and '-'")
        return sets


def images(sets: Mapping[str, Iterable[ImageRow]]) -> Iterator[ImageRow]:
    """The rows of all sets, one set after the other, with ids that no two sets share.

    Image, person and camera are called ``<set>:<its id>``. A person of whom the set does not say so (subset
    ``all``) is of the subset ``train``; other subsets stay.

    Args:
        sets: the rows of each set.

    Raises:
        InputError: if there is no set.
    """
    if not sets:
        raise InputError("no sets are given; name some in the pool's section, each with its kind")
    for name in sorted(sets):
        for row in sets[name]:
            yield replace(
                row,
                image_id=f"{name}:{row.image_id}",
                person_id=f"{name}:{row.person_id}",
                camera_id=f"{name}:{row.camera_id}",
                subset="train" if row.subset == "all" else row.subset,
            )
