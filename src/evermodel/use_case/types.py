"""The value types of the file (durations, names, shares) and `Section`, the base of all its parts.

A duration is written `30m`, `2h`, `7d` and held as int microseconds, so that array code can use it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema, model_validator
from pydantic import Field as Setting

from evermodel.errors import nearest

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"^(\d+)(ms|s|m|h|d|w)$")


def parse_duration(value: Any) -> int:
    """`7d` → microseconds; ValueError if the text is no duration."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _DURATION.match(str(value))
    if not match:
        raise ValueError(f"{value!r} is no duration; write a whole number and ms, s, m, h, d or w, such as 7d")
    number, unit = int(match[1]), match[2]
    return number * 1000 if unit == "ms" else number * UNITS[unit] * 1_000_000


def format_duration(value: int) -> str:
    """Microseconds → the shortest exact text, without weeks (7d stays 7d); the inverse of `parse_duration`."""
    for unit, seconds in sorted(UNITS.items(), key=lambda item: -item[1]):
        if unit != "w" and value and value % (seconds * 1_000_000) == 0:
            return f"{value // (seconds * 1_000_000)}{unit}"
    return f"{value // 1000}ms" if value else "0s"


Duration = Annotated[
    int,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["7d"]}),
]
Name = Annotated[str, Setting(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Share = Annotated[float, Setting(ge=0, le=1)]


class Section(BaseModel):
    """A part of the file. An unknown key is an error that names the nearest valid one.

    A field's alias is its key in the file and in every dump. `renamed`: keys of earlier versions, with their new names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False, serialize_by_alias=True)
    renamed: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            for key in values:
                if key in cls.renamed:
                    raise ValueError(f"unknown key {key!r}; its name is {cls.renamed[key]!r} now")
                if key not in known:
                    raise ValueError(f"unknown key {key!r}; {nearest(str(key), known)}")
        return values
