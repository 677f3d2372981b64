"""The standard OTEL_EXPORTER_OTLP_* variables, and two of our own, as one layer of the configuration.

The specification gives every option a generic form and one for each signal
(``OTEL_EXPORTER_OTLP_TIMEOUT``, ``OTEL_EXPORTER_OTLP_LOGS_TIMEOUT``). A variable that is empty counts as
unset. A value that cannot be used stops the agent with a line that names the variable: the
specification allows to warn and go on, but then the telemetry goes somewhere else than was asked for.
Values are checked here only as far as their text is concerned; ranges and choices are the
configuration's, which names the variable too.
"""

import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote

from otel_connect.config import Layer
from otel_connect.model import Signal

_PREFIX = "OTEL_EXPORTER_OTLP_"
_SCOPES = {_PREFIX: "export"} | {f"{_PREFIX}{signal.upper()}_": f"export.{signal}" for signal in Signal}

# A token as RFC 9110 has it, and a percent sign that no two hexadecimal digits follow.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """Read the variables; its problems have one line for each that is malformed.

    Keys are ``export.…`` of the configuration, and origins the names of the variables. Header values
    are credentials, so no line ever shows one.
    """
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    for name, (key, parse) in _VARIABLES.items():
        text = environ.get(name, "").strip()
        if not text:
            continue
        try:
            values[key] = parse(text)
        except ValueError as error:
            problems.append(f"{name}: {error}")
        else:
            origins[key] = name
    return Layer(values, origins, problems)


def state_layer(environ: Mapping[str, str]) -> Layer:
    """Take the state directory of a systemd unit (``STATE_DIRECTORY``), below which the spool lies by default."""
    directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if not directory:
        return Layer({}, {})
    return Layer({"export.spool_directory": f"{directory}/spool"}, {"export.spool_directory": "STATE_DIRECTORY"})


def _protocol(text: str) -> str:
    if text.lower() == "http/json":
        raise ValueError("http/json is not supported; use http/protobuf or grpc")
    return text.lower()


def _headers(text: str) -> dict[str, str]:
    """``k=v,k2=v2`` as in W3C baggage, values URL-encoded; a ``;`` belongs to the value."""
    headers: dict[str, str] = {}
    for position, member in enumerate(text.split(","), start=1):
        if not member.strip():
            continue
        name, separator, value = (part.strip() for part in member.partition("="))
        if not separator:
            raise ValueError(f"header {position} is not name=value; escape a comma inside a value as %2C")
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"header {position} has a name that HTTP does not allow")
        if _BAD_ESCAPE.search(value):
            raise ValueError(f"header {position} has a broken %-escape in its value; escape % itself as %25")
        try:
            headers[name.lower()] = unquote(value, errors="strict")
        except UnicodeDecodeError:
            # Not chained: the exception holds the value.
            raise ValueError(f"header {position} is not UTF-8 after URL decoding") from None
    return headers


def _milliseconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ValueError(f"must be a whole number of milliseconds, such as 10000, not {text!r}")
    return int(text)


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(f"must be true or false, not {text!r}")
    return text.lower() == "true"


_OPTIONS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "ENDPOINT": ("endpoint", str),
    "PROTOCOL": ("protocol", _protocol),
    "HEADERS": ("headers", _headers),
    "COMPRESSION": ("compression", str.lower),
    "TIMEOUT": ("timeout_ms", _milliseconds),
    "INSECURE": ("insecure", _boolean),
    "CERTIFICATE": ("certificate", str),
    "CLIENT_CERTIFICATE": ("client_certificate", str),
    "CLIENT_KEY": ("client_key", str),
}

_VARIABLES: Mapping[str, tuple[str, Callable[[str], object]]] = {
    **{
        prefix + option: (f"{section}.{key}", parse)
        for prefix, section in _SCOPES.items()
        for option, (key, parse) in _OPTIONS.items()
    },
    "OTEL_METRIC_EXPORT_INTERVAL": ("export.metric_interval_ms", _milliseconds),
    "OTEL_CONNECT_LISTEN": ("serve.listen", str),
    "OTEL_CONNECT_LOG_FORMAT": ("log.format", str.lower),
}
