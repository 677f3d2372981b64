"""The one configuration: frozen, with sections named as the rooms, all errors reported at once.

Values come in layers (``layers``), later ones winning key by key: defaults, the file (TOML), the standard ``OTEL_*``
variables, the command's flags. Every value remembers which layer it came from, so that an error can name the place
to change.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator

from otel_connect.config.export import Compression, ExportConfig, File, Output, Protocol, SignalConfig
from otel_connect.config.filters import FilterConfig
from otel_connect.config.layers import STARTED_IN, Layer, Loaded, Places, file_layer, load
from otel_connect.config.networks import KnownPeer, is_host, without_duplicates
from otel_connect.config.section import Section, Switch, Whole

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
    "Loaded",
    "LogConfig",
    "Output",
    "Places",
    "Protocol",
    "ServeConfig",
    "SignalConfig",
    "build",
    "file_layer",
    "load",
    "parse_listen",
]

_PAGE = 4096
_MOST_PER_SECOND = 1_000_000
_DAY_S = 86_400


class CaptureConfig(Section):
    """How the kernel side is sized and read."""

    probes: Literal["auto", "fexit", "typed", "lite"] = "auto"
    """Which hooks are used: the best that the kernel allows, or those of this set."""
    drain_interval_ms: Annotated[Whole, Field(ge=1, le=1000)] = 50
    """How often the ring is read; it must hold what a host attempts in that time."""
    ring_bytes: Annotated[Whole, Field(ge=_PAGE, le=1 << 30)] = 8 << 20
    """Bytes of the ring between kernel and agent, a power of two; an attempt takes 176."""
    max_in_progress: Annotated[Whole, Field(ge=1, le=1 << 22)] = 1 << 16
    """Attempts that can be in progress at one time; the kernel memory for them is taken at the start."""
    stale_after_s: Annotated[Whole, Field(ge=60, le=_DAY_S)] = 600
    """An attempt in progress for longer is given up as unknown (Linux itself gives up between 127 and 137 s)."""

    process_rate: Annotated[Whole, Field(ge=0, le=_MOST_PER_SECOND)] = 8000
    """Attempts a second that may have a record of their own, for one process; 0 means no limit."""
    process_burst: Annotated[Whole, Field(ge=4, le=_MOST_PER_SECOND)] = 8000
    """Records that a process which was quiet may have at once; a new one begins with a quarter of them."""
    cgroup_rate: Annotated[Whole, Field(ge=0, le=_MOST_PER_SECOND)] = 16000
    """The same for one cgroup."""
    cgroup_burst: Annotated[Whole, Field(ge=4, le=_MOST_PER_SECOND)] = 16000

    @field_validator("ring_bytes")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"must be a power of two, for example {1 << value.bit_length()}")
        return value


def _http_url(value: str) -> str:
    try:
        url = urlsplit(value)
        good = url.scheme in {"http", "https"} and is_host(url.hostname or "") and url.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError("must be a URL, for example https://node-7:10250")
    return value


class EnrichConfig(Section):
    """What is found out about an attempt: whose it is, and to whom."""

    process_cache_size: Annotated[Whole, Field(ge=16, le=1 << 20)] = 4096
    """Processes remembered, by pid and start time."""
    process_context: Switch = True
    """Read the OpenTelemetry context that a process publishes in its memory: the name of its service, for one."""
    names: Switch = True
    """Learn the names of peers from the answers of name servers and from /etc/hosts."""
    command_args: Switch = False
    """Read the arguments of processes, mask their secrets, and show them."""
    vpid: Switch = False
    """Show the pid that a process has in its own PID namespace."""
    cgroup_path: Switch = False
    """Show the path of the cgroup that a process is in."""
    kubelet_url: Annotated[str, AfterValidator(_http_url)] | None = None
    """Where the kubelet of this node says which pods there are, for example https://node-7:10250; else not asked."""
    kubelet_token_file: File | None = None
    """The token of a service account that may get ``nodes/proxy`` or ``nodes/pods``."""
    kubelet_certificate: File | None = None
    """The authority of the kubelet's certificate; ``None``: those that the system trusts."""
    known_peers: Annotated[tuple[KnownPeer, ...], AfterValidator(without_duplicates)] = ()
    """What the operator calls peers: of those that match, the longest prefix counts, and first one with a port."""
    user_names: Switch = True
    """Whether users are called by name, or by number alone."""
    mask_addresses: Literal["none", "prefix", "hash"] = "none"
    """What becomes of addresses before they leave the agent: nothing, their host bits dropped, or a keyed hash."""
    mask_ipv4_prefix: Annotated[Whole, Field(ge=0, le=32)] = 24
    """Bits of an IPv4 address that stay, for ``prefix``."""
    mask_ipv6_prefix: Annotated[Whole, Field(ge=0, le=128)] = 64
    """The same for IPv6."""
    mask_key_file: File | None = None
    """The key for ``hash``, at least 16 bytes."""

    conntrack: Switch = False
    """Whether the connection tracking is asked for who is behind a translated address."""


class EncodeConfig(Section):
    """Which attempts become spans, and how these are called."""

    span_name: Literal["fixed", "peer"] = "fixed"
    """``fixed``: "tcp connect"; ``peer``: "tcp connect <address>:<port>"."""
    span_kind: Literal["internal", "client"] = "internal"
    """``client`` makes service graphs draw an edge for every attempt."""
    span_successes_per_second: Annotated[Whole, Field(ge=0)] = 50
    """Spans for attempts that succeeded; every failure and every slow attempt gets one anyway."""
    span_slow_ms: Annotated[Whole, Field(ge=0)] = 1000
    """From this duration on, a successful attempt counts as slow."""
    collapse_repeats: Annotated[Whole, Field(ge=0)] = 0
    """Of attempts that are alike, a record for the first and each so many-th one; 0: a record for every one."""
    collapse_window_ms: Annotated[Whole, Field(ge=100, le=3_600_000)] = 10_000
    """For how long attempts are compared with the first; then what is left is sent, and it begins anew."""
    series_expire_s: Annotated[Whole, Field(ge=60, le=365 * _DAY_S)] = 3600
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
    if not is_host(name):
        raise ValueError("must have a host that a name can be looked up for")
    if not 0 < int(port[:6]) < 1 << 16:
        raise ValueError("must have a port from 1 to 65535")
    return Listen("", name, int(port))


def build(layers: Iterable[Layer], started_in: Path = STARTED_IN) -> Configuration:
    """Merge the layers, later ones winning, and validate; raises ConfigError with every problem.

    Relative paths of files that are read are taken from ``started_in``.
    """
    return load(Configuration, layers, started_in=started_in).configuration
