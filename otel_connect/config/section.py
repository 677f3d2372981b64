"""What all sections of the configuration have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict


class Context(NamedTuple):
    """What a validation is given besides the values."""

    started_in: Path
    """The directory from which relative paths of files are taken that are read."""
    origins: Mapping[str, str]
    """For each dotted key that was set, what to call its place: the name of a variable, ``FILE: KEY``, a flag."""


class Section(BaseModel):
    """A frozen section in which every key must be known."""

    model_config = ConfigDict(frozen=True, extra="forbid")
