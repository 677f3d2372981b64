"""The one configuration: frozen, with sections named as the rooms, all errors reported at once.

Values come in layers, later ones winning key by key: defaults, the file (TOML), the standard ``OTEL_*``
variables, the command's flags. Every value remembers which layer it came from, so that an error can say
where to mend it.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from otel_connect.config.export import Compression, ExportConfig, File, Output, Protocol, SignalConfig
from otel_connect.config.filters import FilterConfig
from otel_connect.config.networks import KnownPeer, without_duplicates
from otel_connect.config.section import Section
from otel_connect.errors import ConfigError

__all__ = [
    "DEFAULT_LISTEN",
    "CaptureConfig",
    "Compression",
    "Configuration",
    "EncodeConfig",
    "EnrichConfig",
    "ExportConfig",
    "File",
    "FilterConfig",
    "KnownPeer",
    "Layer",
    "Listen",
    "LogConfig",
    "Output",
    "Protocol",
    "ServeConfig",
    "SignalConfig",
    "build",
    "file_layer",
    "parse_listen",
]

_PAGE = 4096
_MOST_PER_SECOND = 1_000_000
_DAY_S = 86_400
_FILE_BYTES = 1 << 20
_SHOWN = 100


class CaptureConfig(Section):
    """How the kernel side is sized and read."""

    drain_interval_ms: Annotated[int, Field(ge=1, le=1000)] = 50
    """How often the ring is read; it must hold what a host attempts in that time."""
    ring_bytes: Annotated[int, Field(ge=_PAGE, le=1 << 30)] = 8 << 20
    """Bytes of the ring between kernel and agent, a power of two; an attempt takes 176."""
    max_in_progress: Annotated[int, Field(ge=1, le=1 << 22)] = 1 << 16
    """Attempts that can be in progress at one time; the kernel memory for them is taken at the start."""
    stale_after_s: Annotated[int, Field(ge=60, le=_DAY_S)] = 600
    """An attempt in progress for longer is given up as unknown (Linux itself gives up after 127 or 131 s)."""

    process_rate: Annotated[int, Field(ge=0, le=_MOST_PER_SECOND)] = 8000
    """Attempts a second that may have a record of their own, for one process; 0 means no limit."""
    process_burst: Annotated[int, Field(ge=4, le=_MOST_PER_SECOND)] = 8000
    """Records that a process which was quiet may have at once; a new one begins with a quarter of them."""
    cgroup_rate: Annotated[int, Field(ge=0, le=_MOST_PER_SECOND)] = 16000
    """The same for one cgroup."""
    cgroup_burst: Annotated[int, Field(ge=4, le=_MOST_PER_SECOND)] = 16000

    @field_validator("ring_bytes")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"must be a power of two, for example {1 << value.bit_length()}")
        return value


def _http_url(value: str) -> str:
    try:
        url = urlsplit(value)
        good = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError("must be a URL, for example https://node-7:10250")
    return value


class EnrichConfig(Section):
    """What is found out about an attempt: whose it is, and to whom."""

    process_cache_size: Annotated[int, Field(ge=16, le=1 << 20)] = 4096
    """Processes remembered, by pid and start time."""
    process_context: bool = True
    """Read the OpenTelemetry context that a process publishes in its memory: the name of its service, for one."""
    names: bool = True
    """Learn the names of peers from the answers of name servers and from /etc/hosts."""
    command_args: bool = False
    """Read the arguments of processes, mask their secrets, and show them."""
    vpid: bool = False
    """Show the pid that a process has in its own PID namespace."""
    cgroup_path: bool = False
    """Show the path of the cgroup that a process is in."""
    kubelet_url: Annotated[str, AfterValidator(_http_url)] | None = None
    """Where the kubelet of this node says which pods there are, for example https://node-7:10250; else not asked."""
    kubelet_token_file: File | None = None
    """The token of a service account that may get ``nodes/proxy`` or ``nodes/pods``."""
    kubelet_certificate: File | None = None
    """The authority of the kubelet's certificate; ``None``: those that the system trusts."""
    known_peers: Annotated[tuple[KnownPeer, ...], AfterValidator(without_duplicates)] = ()
    """What the operator calls peers: of those that match, the longest prefix counts, and first one with a port."""
    user_names: bool = True
    """Whether users are called by name, or by number alone."""
    mask_addresses: Literal["none", "prefix", "hash"] = "none"
    """What becomes of addresses before they leave the agent: nothing, their host bits dropped, or a keyed hash."""
    mask_ipv4_prefix: Annotated[int, Field(ge=0, le=32)] = 24
    """Bits of an IPv4 address that stay, for ``prefix``."""
    mask_ipv6_prefix: Annotated[int, Field(ge=0, le=128)] = 64
    """The same for IPv6."""
    mask_key_file: File | None = None
    """The key for ``hash``, at least 16 bytes."""

    conntrack: bool = False
    """Whether the connection tracking is asked for who is behind a translated address."""

    @model_validator(mode="after")
    def _has_key(self) -> Self:
        if self.mask_addresses == "hash" and self.mask_key_file is None:
            raise ValueError('mask_addresses = "hash" needs a key: name its file by mask_key_file')
        return self


class EncodeConfig(Section):
    """Which attempts become spans, and how these are called."""

    span_name: Literal["fixed", "peer"] = "fixed"
    """``fixed``: "tcp connect"; ``peer``: "tcp connect <address>:<port>"."""
    span_kind: Literal["internal", "client"] = "internal"
    """``client`` makes service graphs draw an edge for every attempt."""
    span_successes_per_second: Annotated[int, Field(ge=0)] = 50
    """Spans for attempts that succeeded; every failure and every slow attempt gets one anyway."""
    span_slow_ms: Annotated[int, Field(ge=0)] = 1000
    """From this duration on, a successful attempt counts as slow."""
    collapse_repeats: Annotated[int, Field(ge=0)] = 0
    """Of attempts that are alike, a record for the first and each so many-th one; 0: a record for every one."""
    collapse_window_ms: Annotated[int, Field(ge=100, le=3_600_000)] = 10_000
    """For how long attempts are compared with the first; then what is left is sent, and it begins anew."""
    series_expire_s: Annotated[int, Field(ge=60, le=365 * _DAY_S)] = 3600
    """How long a set of attributes of the attempt metrics that does not change is still sent, if cumulative."""


class Listen(NamedTuple):
    """Where the status server listens: a Unix socket, or else a host and a port."""

    path: str
    host: str
    port: int

    def __str__(self) -> str:
        """Write it as the configuration does."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"unix:{self.path}" if self.path else f"{host}:{self.port}"


class ServeConfig(Section):
    """The status server: what a probe, a scraper or a person can ask the agent."""

    listen: str | None = None
    """``HOST:PORT``, ``unix:/PATH``, ``off`` or empty; ``None``: ``DEFAULT_LISTEN``."""

    @field_validator("listen")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value and value != "off":
            parse_listen(value)
        return "" if value == "off" else value


class LogConfig(Section):
    """What the agent writes to standard error."""

    format: Literal["text", "json"] = "text"
    """``text``: a line for a person; ``json``: an object for each line."""


class Configuration(Section):
    """Everything the agent can be told."""

    capture: CaptureConfig = CaptureConfig()
    enrich: EnrichConfig = EnrichConfig()
    filter: FilterConfig = FilterConfig()
    encode: EncodeConfig = EncodeConfig()
    export: ExportConfig = ExportConfig()
    serve: ServeConfig = ServeConfig()
    log: LogConfig = LogConfig()


DEFAULT_LISTEN = Listen("", "127.0.0.1", 9475)


def parse_listen(text: str) -> Listen:
    """Read ``HOST:PORT``, ``[IPv6]:PORT`` or ``unix:/PATH``; raises ValueError that says how to write it."""
    scheme, _, path = text.partition(":")
    if scheme == "unix":
        if not path.startswith("/") or not path.isprintable() or len(path.encode()) > 107:
            raise ValueError("must name an absolute path of at most 107 bytes, such as unix:/run/otel-connect.sock")
        return Listen(path, "localhost", 0)
    host, _, port = text.rpartition(":")
    name = host.removeprefix("[").removesuffix("]")
    if not name or (":" in name) is not host.startswith("[") or not (port.isascii() and port.isdigit()):
        raise ValueError(f"must be HOST:PORT, such as {DEFAULT_LISTEN}, or unix:/PATH, or off")
    try:
        name.encode("idna")
    except UnicodeError:
        raise ValueError("must have a host that a name can be looked up for") from None
    if not 0 < int(port[:6]) < 1 << 16:
        raise ValueError("must have a port from 1 to 65535")
    return Listen("", name, int(port))


class Layer(NamedTuple):
    """Values from one source: dotted keys such as ``export.logs.endpoint``, raw as they were found."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    """For each key what to call its place in an error, e.g. ``OTEL_EXPORTER_OTLP_TIMEOUT``."""
    problems: Sequence[str] = ()
    """What could not be read; kept, so that it hides nothing that is wrong elsewhere."""


def file_layer(path: Path) -> Layer:
    """Read a TOML file; its problems name the file and the line."""
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES + 1)
        if len(content) > _FILE_BYTES:
            return Layer({}, {}, [f"{path}: is larger than 1 MiB, so it is no configuration; name another file"])
        document = tomllib.loads(content.decode())
        values = dict(_flatten(document, ()))
    except OSError as error:
        return Layer({}, {}, [f"{path}: cannot be read ({error.strerror}); name a readable file"])
    except UnicodeDecodeError as error:
        return Layer({}, {}, [f"{path}: is not UTF-8 at byte {error.start}; save it as UTF-8"])
    except tomllib.TOMLDecodeError as error:
        return Layer({}, {}, [f"{path}: is not valid TOML: {error}"])
    except (ValueError, RecursionError):  # what the parser itself lets through
        return Layer({}, {}, [f"{path}: has a number too long or a table nested too deep to be read; shorten it"])
    return Layer(values, {key: f"{path}: {key if key.isprintable() else ascii(key)}" for key in values})


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return Path("/")


# Taken once: a daemon changes to another directory, and shall find the same files as before.
_STARTED_IN = _working_directory()


def build(layers: Iterable[Layer], started_in: Path = _STARTED_IN) -> Configuration:
    """Merge the layers, later ones winning, and validate; raises ConfigError with every problem.

    Relative paths of files that are read are taken from ``started_in``.
    """
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    for layer in layers:
        problems += layer.problems
        for key, value in layer.values.items():
            origins[key] = layer.origins[key]
            if not _put(tree, key.split("."), value):
                problems.append(f"{layer.origins[key]}: is a value and a section at once; keep one")
    try:
        configuration = Configuration.model_validate(tree, context=started_in)
    except ValidationError as error:
        problems += [_problem(detail, origins) for detail in error.errors()]
    if problems:
        raise ConfigError(problems)
    return configuration.model_copy(update={"export": configuration.export.set_by(origins)})


# Tables that are values, not sections: their keys are the user's own.
_VALUE_TABLES = {("export", "headers"), *(("export", s, "headers") for s in ("logs", "metrics", "traces"))}


def _flatten(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterable[tuple[str, Any]]:
    for name, value in table.items():
        here = (*path, name)
        if isinstance(value, dict) and here not in _VALUE_TABLES:
            yield from _flatten(value, here)
        else:
            yield ".".join(here), value


def _put(tree: dict[str, Any], path: list[str], value: object) -> bool:
    *sections, last = path
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            return False
        tree = inner
    tree[last] = value
    return True


def _problem(detail: ErrorDetails, origins: Mapping[str, str]) -> str:
    location = [str(part) for part in detail["loc"]]
    keys = [".".join(location[:length]) for length in range(len(location), 0, -1)]
    key = next((key for key in keys if key in origins), keys[0])
    place = origins.get(key, key) + _place_in_list(detail["loc"][key.count(".") + 1 :])
    if detail["type"] == "extra_forbidden":
        return f"{place}: unknown key; see docs/configuration.md for those that exist"
    message = detail["msg"].removeprefix("Value error, ")
    # Headers carry credentials, and a table or a list may.
    secret = "headers" in location or isinstance(detail["input"], dict | list)
    shown = "" if secret else f", not {_shortened(repr(detail['input']))}"
    return f"{place}: {message[0].lower()}{message[1:]}{shown}"


def _place_in_list(parts: Sequence[int | str]) -> str:
    """Say which entry of a list it is, and what of it; empty for what is no list."""
    if not parts or not isinstance(parts[0], int):
        return ""
    return f" (entry {parts[0] + 1})" + "".join(f": {part}" for part in parts[1:])


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
