"""Long forms of tests: the full length with OTEL_CONNECT_SOAK=1 (`make soak`), else one that CI has time for."""

import os
from typing import TypeVar

T = TypeVar("T")

SOAK = os.environ.get("OTEL_CONNECT_SOAK") == "1"


def by_length(*, full: T, short: T) -> T:
    """Choose the value for the full length of a test, or for the short form of it."""
    return full if SOAK else short
