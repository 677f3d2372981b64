"""What all sections of the configuration have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Strict

Whole: TypeAlias = Annotated[int, Strict()]
"""A whole number that was written as one: not ``true``, ``"5"`` or ``5.0``. Variables are text, and parsed before."""

Switch: TypeAlias = Annotated[bool, Strict()]
"""``true`` or ``false``: not ``"yes"`` or ``1``."""


class Context(NamedTuple):
    """What a validation is given besides the values."""

    started_in: Path
    """The directory from which relative paths of files are taken that are read."""
    origins: Mapping[str, str]
    """For each dotted key that was set, what to call its place: the name of a variable, ``FILE: KEY``, a flag."""


class Section(BaseModel):
    """A frozen section in which every key must be known."""

    model_config = ConfigDict(frozen=True, extra="forbid")
