"""What an exporter is given as parameters: in code, or by a declarative configuration of the SDK.

Names are those of the SDK's own exporters and those of the configuration file, which passes what stands below
``otel_connect:`` as it is. A parameter is worth what the variable for its signal is, and wins over it. None
ever keeps an application from starting: see ``settings`` for what cannot be used.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from otel_connect.config import Layer
from otel_connect.encode.preferences import AGGREGATION_VARIABLE, TEMPORALITY_VARIABLE
from otel_connect.environment import environment_layer
from otel_connect.model import Signal

_SHORTEST_MS = 100


class Piece(NamedTuple):
    """One option as it was given."""

    layer: Layer
    how: bool
    """Whether it only says how to send; else it says where to, or as whom."""


class Parameters:
    """Of the exporters that this process has made: the last one counts for each signal."""

    def __init__(self) -> None:
        self._of: dict[Signal, tuple[Piece, ...]] = {}

    def keep(self, signal: Signal, parameters: Mapping[str, object]) -> None:
        """Note an exporter and its parameters; those that are ``None`` count as not given."""
        self._of[signal] = tuple(_pieces(signal, parameters))

    @property
    def given(self) -> bool:
        """Whether there are any at all."""
        return any(self._of.values())

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All of them."""
        return tuple(piece for pieces in self._of.values() for piece in pieces)

    def may_send(self, signal: Signal) -> bool:
        """Whether it is known where a signal goes: with parameters not before its exporter is made."""
        return not self.given or signal in self._of


def metric_preferences(parameters: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Take out what a reader has to know, as the variables that say the same."""
    for name, variable in _PREFERENCES.items():
        if (value := parameters.pop(name, None)) is not None:
            yield variable, str(value).replace("low_memory", "lowmemory")


def place(signal: Signal, name: str) -> str:
    """Name a parameter in a message."""
    return f"the exporter of {signal}: {name}"


def _pieces(signal: Signal, parameters: Mapping[str, object]) -> Iterator[Piece]:
    given = {name: value for name, value in parameters.items() if value is not None}
    nested = given.pop("tls", {})
    if isinstance(nested, Mapping):
        given |= {f"tls.{name}": value for name, value in nested.items() if value is not None}
    else:
        given["tls"] = nested
    if headers := {name: given.pop(name) for name in ("headers_list", "headers") if name in given}:
        yield _piece(signal, "headers", "headers", lambda: _headers(headers.values()), how=False)
    for name, value in given.items():
        if name == "encoding" and value == "protobuf":
            continue  # the only one there is
        if name not in _KNOWN:
            yield Piece(Layer({}, {}, [f"{place(signal, name)}: is not supported (see docs/plugin.md)"]), how=True)
            continue
        key, read, how = _KNOWN[name]
        yield _piece(signal, name, key, lambda read=read, value=value: read(value), how=how)  # type: ignore[misc]


def _piece(signal: Signal, name: str, key: str, read: Callable[[], object], *, how: bool) -> Piece:
    origin = place(signal, name)
    try:
        value = read()
    except ValueError as error:
        return Piece(Layer({}, {}, [f"{origin}: {error}"]), how)
    return Piece(Layer({f"export.{signal}.{key}": value}, {f"export.{signal}.{key}": origin}), how)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")  # noqa: TRY004 - one kind for all that cannot be used
    return value.strip()


def _path(value: object) -> str:
    return _text(str(value))


def _compression(value: object) -> str:
    """Read the texts and the enumerations of the SDK's exporters and of gRPC."""
    name = str(getattr(value, "name", value)).lower()
    return {"nocompression": "none"}.get(name, name)


def _milliseconds(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError("must be a whole number of milliseconds, such as 10000")
    if value < _SHORTEST_MS:
        raise ValueError(f"is in milliseconds, and {value:g} are too few for any backend; write 10000 for ten seconds")
    return int(value)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004 - one kind for all that cannot be used
    return value


def _headers(forms: Iterable[object]) -> dict[str, str]:
    """Join them, later ones winning: ``name=value,…``, a table, pairs, or a list of ``name`` and ``value``."""
    headers: dict[str, str] = {}
    for form in forms:
        try:
            headers |= _header_pairs(form)
        except (TypeError, AttributeError, KeyError):  # whose text may hold a value
            raise ValueError("must be name=value,…, a table, or a list of name and value") from None
    return headers


def _header_pairs(form: Any) -> dict[str, str]:
    if isinstance(form, str):
        layer = environment_layer({_VARIABLE: form})
        if layer.problems:
            raise ValueError(layer.problems[0].removeprefix(f"{_VARIABLE}: "))
        pairs: dict[str, str] = dict(layer.values.get("export.headers", {}))
        return pairs
    if isinstance(form, Mapping):
        return {str(name).lower(): str(value) for name, value in form.items()}
    both = [(one["name"], one.get("value") or "") if isinstance(one, Mapping) else one for one in form]
    if any(len(pair) != 2 for pair in both):
        raise KeyError
    return {str(name).lower(): str(value) for name, value in both}


_VARIABLE = "OTEL_EXPORTER_OTLP_HEADERS"
_PREFERENCES = {
    "temporality_preference": TEMPORALITY_VARIABLE,
    "default_histogram_aggregation": AGGREGATION_VARIABLE,
}

_KNOWN: Mapping[str, tuple[str, Callable[[object], object], bool]] = {
    "endpoint": ("endpoint", _text, False),
    "protocol": ("protocol", _text, True),
    "compression": ("compression", _compression, True),
    "timeout": ("timeout_ms", _milliseconds, True),
    "insecure": ("insecure", _boolean, True),
    "tls.insecure": ("insecure", _boolean, True),
    "certificate_file": ("certificate", _path, False),
    "tls.ca_file": ("certificate", _path, False),
    "client_certificate_file": ("client_certificate", _path, False),
    "tls.cert_file": ("client_certificate", _path, False),
    "client_key_file": ("client_key", _path, False),
    "tls.key_file": ("client_key", _path, False),
}
