"""The standard OTEL_EXPORTER_OTLP_* variables, and two of our own, as one layer of the configuration.

The specification gives every option a generic form and one for each signal
(``OTEL_EXPORTER_OTLP_TIMEOUT``, ``OTEL_EXPORTER_OTLP_LOGS_TIMEOUT``). A variable that is empty counts as
unset. A value that cannot be used stops the agent with a line that names the variable: the
specification allows to warn and go on, but then the telemetry goes somewhere else than was asked for.
Values are checked here only as far as their text is concerned; ranges and choices are the
configuration's, which names the variable too.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from urllib.parse import unquote

from otel_connect.config import Layer
from otel_connect.config.export import is_absolute
from otel_connect.config.words import repeated_headers
from otel_connect.model import Signal

_PREFIX = "OTEL_EXPORTER_OTLP_"
_SCOPES = {_PREFIX: "export"} | {f"{_PREFIX}{signal.upper()}_": f"export.{signal}" for signal in Signal}

# A token as RFC 9110 has it, but for one that begins with a quote, which belongs to a shell; and a percent sign that
# no two hexadecimal digits follow.
_HEADER_NAME = re.compile(r"(?!')[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

_READ_ELSEWHERE = (
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SERVICE_NAME",
    "OTEL_CONNECT_SPOOL_DIRECTORY",
)
_ALIKE = 0.9


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """Read the variables; its problems have one line for each that is malformed.

    Keys are ``export.…`` of the configuration, and origins the names of the variables. Header values
    are credentials, so no line ever shows one. A variable whose name is almost one that the agent reads is
    warned about, and so are headers of one name.
    """
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    warnings: list[str] = []
    unread: set[str] = set()
    for name, (key, parse) in _VARIABLES.items():
        text = environ.get(name, "").strip()
        if not text:
            continue
        try:
            values[key] = parse(text)
        except ValueError as error:
            problems.append(f"{name}: {error}")
            unread.add(key)
        else:
            origins[key] = name
            if parse is _headers:
                warnings += [f"{name}: {repeat}" for repeat in repeated_headers(pair[0] for pair in _pairs(text))]
    return Layer(values, origins, problems, frozenset(unread), [*warnings, *_misspelt(environ)])


def variables() -> Mapping[str, str]:
    """Return the variables of the layer, each with its key."""
    return {name: key for name, (key, _) in _VARIABLES.items()}


def _misspelt(environ: Mapping[str, str]) -> Iterator[str]:
    """Find names that nobody reads and that differ by a letter or two from one that the agent does.

    Others that begin with ``OTEL_`` are left alone: they may be meant for another program that has the same
    environment, and Kubernetes makes OTEL_CONNECT_PORT and the like of a service called otel-connect.
    """
    read = (*_VARIABLES, *_READ_ELSEWHERE)
    for name in environ:
        upper = name.upper()
        if name in read or not environ[name] or not upper.startswith("OTEL_"):
            continue
        if meant := get_close_matches(upper, read, 1, _ALIKE):
            yield f"{name if name.isprintable() else ascii(name)}: no such variable; did you mean {meant[0]}?"


def state_layer(environ: Mapping[str, str]) -> Layer:
    """Take the state directory of a systemd unit (``STATE_DIRECTORY``), below which the spool lies by default."""
    directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if not directory:
        return Layer({}, {})
    if not is_absolute(directory):
        problem = f"STATE_DIRECTORY: must be an absolute path, not {directory!r}"
        return Layer({}, {}, [problem], frozenset({"export.spool_directory"}))
    return Layer({"export.spool_directory": f"{directory}/spool"}, {"export.spool_directory": "STATE_DIRECTORY"})


def _protocol(text: str) -> str:
    if text.lower() == "http/json":
        raise ValueError("http/json is not supported; use http/protobuf or grpc")
    return text.lower()


def _pairs(text: str) -> Iterator[tuple[str, str, str]]:
    """Give the name, the ``=`` if there is one, and the value of each member."""
    for member in text.split(","):
        if member.strip():
            name, separator, value = member.partition("=")
            yield name.strip(), separator, value.strip()


def _headers(text: str) -> dict[str, str]:
    """``k=v,k2=v2`` as in W3C baggage, values URL-encoded; a ``;`` belongs to the value."""
    headers: dict[str, str] = {}
    for position, (name, separator, value) in enumerate(_pairs(text), start=1):
        if not (separator and _HEADER_NAME.fullmatch(name)):
            raise ValueError(f"header {position} {_why_no_pair(name, separator, position)}")
        if _BAD_ESCAPE.search(value):
            raise ValueError(f"header {position} has a broken %-escape in its value; escape % itself as %25")
        try:
            headers[name.lower()] = unquote(value, errors="strict")
        except UnicodeDecodeError:
            # Not chained: the exception holds the value.
            raise ValueError(f"header {position} is not UTF-8 after URL decoding") from None
    return headers


def _why_no_pair(name: str, separator: str, position: int) -> str:
    """Say what is wrong with a member that does not begin with ``name=``; what stands there may be the secret."""
    comma = ", and a comma inside of a value as %2C" if position > 1 else ""
    reasons = (
        (name.startswith(("'", '"')), "begins with a quotation mark; leave out the quotes"),
        (":" in name, "has a colon after its name; write name=value"),
        (separator and not name, "has no name before its =; write name=value"),
        (separator, "has a name that HTTP does not allow; write name=value"),
        ("%3d" in name.lower(), "has its = escaped as %3D; write the = after the name as it is"),
        (True, f"has no =; write name=value{comma}"),
    )
    return next(reason for holds, reason in reasons if holds)


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
