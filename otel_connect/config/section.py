"""What all sections of the configuration have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen section in which every key must be known."""

    model_config = ConfigDict(frozen=True, extra="forbid")
