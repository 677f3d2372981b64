"""What is wrong with a value, in the words of the configuration instead of those of the library that found it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from difflib import get_close_matches
from typing import Any, get_args

from pydantic_core import ErrorDetails

from otel_connect.config.section import Section

_SHOWN = 100
_ALIKE = 0.75

_NUMBERS = ("int_type", "int_parsing", "int_parsing_size", "int_from_float", "finite_number")
_PLAIN: Mapping[str, str] = {
    **dict.fromkeys(_NUMBERS, "must be a whole number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("string_type", "string_unicode"), "must be text in quotes"),
    "path_type": "must be the name of a file, in quotes",
    "tuple_type": "must be a list, in square brackets",
    "missing": "must be set",
}
"""By the library's name for the kind of error."""
_LIMITS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("enum", "literal_error"), ("must be %s", "expected")),
    "string_too_short": ("must have %s or more characters", "min_length"),
    "string_too_long": ("must have at most %s characters", "max_length"),
    "greater_than_equal": ("must be %s or more", "ge"),
    "less_than_equal": ("must be %s or less", "le"),
    "less_than": ("must be less than %s", "lt"),
    "value_error": ("%s", "error"),
}
"""The same, with what the library calls the limit."""
_TABLES = ("model_type", "model_attributes_type", "dict_type", "mapping_type")


def complaint(model: type[Section], detail: ErrorDetails, origins: Mapping[str, str]) -> str:
    """Say in one line where a value of the model is wrong, and why; ``origins`` are the places of keys."""
    location = detail["loc"]
    place = _place(location, origins)
    if detail["type"] == "extra_forbidden":
        meant = _suggestion(model, location)
        return f"{place}: no such key; " + (
            f"did you mean {meant}?" if meant else "see docs/configuration.md for those that exist"
        )
    if detail["type"] in _TABLES:
        words = f"must be a table ({_header(location)})"
    else:
        words = _words(detail["type"], detail.get("ctx", {}))
    found = _found(location, detail["input"]) if words.startswith("must ") else ""
    return f"{place}: {words}{found}"


def shown_key(key: str) -> str:
    """Write a key so that it can be seen, and is one line."""
    return key if key and key.isprintable() else ascii(key)


def keys(model: type[Section], prefix: str = "") -> Iterator[str]:
    """Name all keys of a model that are no sections, with their dots."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def repeated_headers(names: Iterable[str]) -> Iterator[str]:
    """Say which headers replace an earlier one; by their positions, because a mistyped name may hold a secret."""
    first: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        if (before := first.setdefault(name.lower(), position)) != position:
            yield f"header {position} has the name of header {before} and replaces it; leave one out"


def _words(kind: str, limits: Mapping[str, Any]) -> str:
    if kind in _LIMITS:
        template, name = _LIMITS[kind]
        return template % (limits[name],)
    return _PLAIN.get(kind, "cannot be used")


def _found(location: Sequence[int | str], value: object) -> str:
    """Show what was found, unless it may be a secret: headers and URLs carry credentials, and a table or a list may."""
    if "headers" in location or isinstance(value, dict | list) or (isinstance(value, str) and "@" in value):
        return ""
    return f", not {_shortened(_as_toml(value))}"


def _as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, date | time) else repr(value)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _place(location: Sequence[int | str], origins: Mapping[str, str]) -> str:
    """Say where it is: the place of the key, else of a key in the same section, and which entry of a list."""
    parts = [str(part) for part in location]
    for length in range(len(parts), 0, -1):
        key = ".".join(parts[:length])
        if key in origins:
            return origins[key] + _place_in_list(location[length:])
    key = ".".join(parts)
    for inner, place in origins.items():
        if inner.startswith(f"{key}.") and place.endswith(inner):
            return place.removesuffix(inner) + key
    return shown_key(key)


def _place_in_list(parts: Sequence[int | str]) -> str:
    """Say which entry of a list it is, and what of it; empty for what is no list."""
    if not parts:
        return ""
    if not isinstance(parts[0], int):
        return "".join(f".{part}" for part in parts)
    return f" (entry {parts[0] + 1})" + "".join(f": {part}" for part in parts[1:])


def _header(location: Sequence[int | str]) -> str:
    name = ".".join(part for part in location if isinstance(part, str))
    return f"[[{name}]]" if isinstance(location[-1], int) else f"[{name}]"


def _suggestion(model: type[Section], location: Sequence[int | str]) -> str:
    """Find the key that was meant: one of the same section, else one of that name in another; empty for none."""
    *section, name = (part for part in location if isinstance(part, str))
    siblings = list(_section(model, section).model_fields)
    if alike := get_close_matches(name, siblings, 1, _ALIKE):
        in_a_list = any(isinstance(part, int) for part in location)
        return alike[0] if in_a_list else ".".join([*section, alike[0]])
    last = {key.rpartition(".")[2]: key for key in reversed(list(keys(model)))}
    elsewhere = get_close_matches(name, last, 1, _ALIKE)
    return last[elsewhere[0]] if elsewhere else ""


def _section(model: type[Section], names: Sequence[str]) -> type[Section]:
    for name in names:
        model = next(_sections_in(model.model_fields[name].annotation))
    return model


def _sections_in(annotation: object) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections_in(inner)
