"""What a process published of itself as OpenTelemetry resource attributes: bounded, and nothing that is ours to say.

Everything here was chosen by the process, so that it may hold anything and be of any size. Pure.
"""

from collections.abc import Iterable, Mapping
from urllib.parse import unquote_to_bytes

SERVICE_NAME = "service.name"
NAME_VARIABLE, ATTRIBUTES_VARIABLE = "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"

MOST_ATTRIBUTES = 32
MOST_KEY_LENGTH = 128
MOST_VALUE_LENGTH = 256
"""In characters; what is longer is cut."""

# What the agent observes itself, or says of each record (a resource is shared by many processes), or what would say
# of its telemetry that another SDK made it. Nothing later looks for these again.
_OURS = ("process.", "host.", "os.", "telemetry.", "otel_connect.", "otel.")


def bounded(attributes: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Keep what may be passed on: the first of each key, not too many, values cut, empty ones and ours left out."""
    kept: dict[str, str] = {}
    for key, value in attributes:
        if len(kept) == MOST_ATTRIBUTES:
            break
        if key and value and len(key) <= MOST_KEY_LENGTH and not key.startswith(_OURS):
            kept.setdefault(key, value[:MOST_VALUE_LENGTH])
    return kept


def service_variables(environment: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Pick from ``NAME=value`` the variables that name a service; of two of a name the first, as getenv() does."""
    found: dict[str, str] = {}
    for variable in environment:
        name, equals, value = variable.partition("=")
        if equals and name in {NAME_VARIABLE, ATTRIBUTES_VARIABLE}:
            found.setdefault(name, value)
    return tuple(found.items())


def from_environment(environment: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Read OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES; of a service's name the former wins.

    Entries without ``=`` or without a key are left out, and a ``%`` that encodes nothing stands for itself.
    """
    variables: Mapping[str, str] = dict(environment)
    name = variables.get(NAME_VARIABLE, "").strip()
    entries = [(SERVICE_NAME, name)] if name else []
    for entry in variables.get(ATTRIBUTES_VARIABLE, "").split(","):
        key, equals, value = entry.partition("=")
        if equals:
            entries.append((_decoded(key), _decoded(value)))
    return bounded(entries)


def _decoded(text: str) -> str:
    text = text.strip()
    if "%" not in text:
        return text
    return unquote_to_bytes(text).decode("utf-8", "backslashreplace")
