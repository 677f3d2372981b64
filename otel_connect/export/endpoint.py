"""Where each signal goes: the specification's rules for OTLP endpoints, as one pure function."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import otel_connect
from otel_connect.config import Compression, ExportConfig, Output, Protocol, SignalConfig
from otel_connect.config.networks import is_host
from otel_connect.errors import ConfigError
from otel_connect.model import Signal

USER_AGENT = f"OTel-OTLP-Exporter-otel-connect/{otel_connect.__version__}"

_DEFAULT_URL = {Protocol.HTTP_PROTOBUF: "http://localhost:4318", Protocol.GRPC: "http://localhost:4317"}
HTTP_PATH = {Signal.LOGS: "/v1/logs", Signal.METRICS: "/v1/metrics", Signal.TRACES: "/v1/traces"}
"""What is appended to a base URL."""

_VARIABLES = "OTEL_EXPORTER_OTLP_"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# What both transports can carry unchanged; above all no line end, which would begin another header.
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_URL = re.compile(r"[\x21-\x7e]+")
# How gRPC and others write addresses that are none of a host and a port; ``dns:4317`` is a host and its port.
_NO_HOST = re.compile(r"(unix|unix-abstract|vsock|dns|ipv4|ipv6|xds|file):(?!\d+(?:/|\Z))", re.IGNORECASE)
_FRAMING = {
    *("connection", "content-encoding", "content-length", "content-type", "expect", "host", "keep-alive"),
    *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how one signal is sent; shown without the values of its headers."""

    signal: Signal
    protocol: Protocol
    url: str
    """HTTP: what is posted to; gRPC: ``http://host:port`` or, with TLS, ``https://host:port``."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Names in lower case."""
    compression: Compression = Compression.NONE
    timeout_s: float = 10.0
    certificate: Path | None = None
    """PEM with the authorities that are trusted instead of the usual ones."""
    client_certificate: Path | None = None
    client_key: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """For each option that was set, what set it: a variable, ``FILE: KEY``, or a flag."""

    @property
    def place(self) -> str:
        """Host and port, as they were written."""
        return urlsplit(self.url).netloc

    @property
    def port(self) -> int:
        """The port, also where none was written."""
        return urlsplit(self.url).port or (443 if self.secure else 80)

    @property
    def server(self) -> str:
        """The part that all signals have in common which go to the same server."""
        return self.url[: self.url.index("://") + 3] + self.place

    def name(self, option: str) -> str:
        """Name what set an option; one that nobody has set, by its variable."""
        return self.origins.get(option) or f"{_VARIABLES}{option.removesuffix('_ms').upper()}"

    def setting(self, option: str, value: object) -> str:
        """Say how an option is set to a value, where it was set before."""
        name = self.name(option)
        file, separator, key = name.rpartition(": ")
        if not separator:
            return f"{name}{' ' if name.startswith('--') else '='}{value}"
        return f"{key} = {value if isinstance(value, int) else json.dumps(value)} in {file}"

    @property
    def secure(self) -> bool:
        """Whether the way there is TLS."""
        return self.url.startswith("https:")

    def __str__(self) -> str:
        masked = "".join(f", {name}=***" for name in self.headers)
        return f"{self.url} ({self.protocol}{masked})"


def output_kind(config: ExportConfig) -> Output:
    """Say where attempts go: as configured, else to the endpoints if there are any. Raises as ``resolve`` does."""
    return config.output or (Output.OTLP if resolve(config) else Output.CONSOLE)


def resolve(config: ExportConfig) -> Mapping[Signal, Endpoint]:
    """Give every signal its endpoint; raises ConfigError with every problem, each named by its key.

    Nothing configured, and ``output`` not said to be OTLP: the mapping is empty, because an agent that is
    just tried out belongs on the console, not in a retry loop to a collector nobody has. But once one
    endpoint is configured (or ``output`` is OTLP), a signal that has none goes to the specification's
    default, ``localhost``, exactly as in any other OpenTelemetry program with the same variables: the
    collector beside us is the common case, and a missing one shows up as unhealthy, not as silence.

    Certificates are only paired here; ``tls.file_problems`` reads the files.
    """
    overrides = {Signal.LOGS: config.logs, Signal.METRICS: config.metrics, Signal.TRACES: config.traces}
    configured = config.endpoint is not None or any(one.endpoint is not None for one in overrides.values())
    if not configured and config.output is not Output.OTLP:
        return {}
    problems: list[str] = []
    endpoints = {signal: _endpoint(signal, config, own, problems) for signal, own in overrides.items()}
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))  # a bad base is one problem, not three
    return endpoints


def _endpoint(signal: Signal, config: ExportConfig, own: SignalConfig, problems: list[str]) -> Endpoint:
    origins: dict[str, str] = {}

    def pick(name: str) -> tuple[str, Any]:
        """Give the signal's own value, else the common one, and the key to blame."""
        value = getattr(own, name)
        key = f"export.{name}" if value is None else f"export.{signal}.{name}"
        if (origin := config.origins.get(key)) is not None:
            origins[name] = origin
        return key, getattr(config, name) if value is None else value

    _, protocol = pick("protocol")
    key, text = pick("endpoint")
    _, insecure = pick("insecure")
    try:
        parts = _split(text if text is not None else _DEFAULT_URL[protocol], protocol, insecure=insecure)
        if protocol is Protocol.GRPC:
            url = _grpc_url(parts)
        else:
            url = _http_url(parts, "" if own.endpoint is not None else HTTP_PATH[signal])
    except ValueError as error:
        problems.append(f"{key}: {error}")
        url = ""
    key, headers = pick("headers")
    problems += [f"{key}: {problem}" for problem in _header_problems(headers, protocol)]
    certificate_key, client_certificate = pick("client_certificate")
    key_key, client_key = pick("client_key")
    if client_certificate is not None and client_key is None:
        problems.append(
            f"{certificate_key}: needs its private key; set {_counterpart(certificate_key, key_key, config.origins)}"
        )
    if client_key is not None and client_certificate is None:
        problems.append(
            f"{key_key}: needs its certificate; set {_counterpart(key_key, certificate_key, config.origins)}"
        )
    return Endpoint(
        signal=signal,
        protocol=protocol,
        url=url,
        headers={name.lower(): value for name, value in headers.items()},
        compression=pick("compression")[1],
        timeout_s=pick("timeout_ms")[1] / 1000,
        certificate=pick("certificate")[1],
        client_certificate=client_certificate,
        client_key=client_key,
        origins=origins,
    )


def _counterpart(found: str, missing: str, origins: Mapping[str, str]) -> str:
    """Name the key that is missing as the one that was found is named: by a variable, if that set it."""
    if not origins.get(found, "").startswith(_VARIABLES):
        return missing
    return _VARIABLES + missing.removeprefix("export.").upper().replace(".", "_")


def _split(text: str, protocol: Protocol, *, insecure: bool) -> SplitResult:
    """Parse an endpoint; raises ValueError with what is wrong, without a secret that may be in it."""
    if not _URL.fullmatch(text):
        raise ValueError("is empty or has a character that no URL may have, such as a space")
    if found := _NO_HOST.match(text):
        raise ValueError(f"has the unknown scheme {found[1].lower()!r}; use http or https, with a host")
    if "://" not in text and protocol is not Protocol.GRPC:
        raise ValueError("has no scheme; begin with http:// or https://")
    try:
        parts = urlsplit(text if "://" in text else f"{'http' if insecure else 'https'}://{text}")
        port = parts.port
    except ValueError:  # its message may quote the user's text
        raise ValueError("has a port or a bracketed address that cannot be read") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("carries credentials; move them to the headers")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("carries a query or a fragment; move keys to the headers")
    if parts.scheme not in {"http", "https"}:
        raise ValueError(f"has the unknown scheme {parts.scheme!r}; use http or https, with a host")
    _check_place(parts, port, text, f"write {parts.scheme}://HOST:{4317 if protocol is Protocol.GRPC else 4318}")
    return parts


def _check_place(parts: SplitResult, port: int | None, text: str, remedy: str) -> None:
    if not parts.hostname:
        raise ValueError(f"has no host: {text!r}; {remedy}")
    if not is_host(parts.hostname):
        raise ValueError(f"has a host that cannot be looked up: {text!r}; {remedy}")
    if port == 0 or parts.netloc.endswith(":"):
        unix = "; Unix sockets are not supported" if parts.hostname.startswith("unix") else ""
        raise ValueError(f"has no usable port: {text!r}; {remedy}{unix}")


def _http_url(parts: SplitResult, suffix: str) -> str:
    if suffix and (twice := next((one for one in HTTP_PATH.values() if parts.path.rstrip("/").endswith(one)), "")):
        raise ValueError(f"ends in {twice}, and the path of each signal is appended to it; leave {twice} out")
    path = parts.path.rstrip("/") + suffix if suffix else parts.path or "/"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _grpc_url(parts: SplitResult) -> str:
    if parts.path not in {"", "/"}:
        raise ValueError("has a path, which gRPC cannot use; leave scheme, host and port")
    if parts.port is not None:
        return f"{parts.scheme}://{parts.netloc}"
    # With TLS a missing port means 443 to every gRPC client; without, clients disagree (80, 443, 4317).
    if parts.scheme == "http":
        raise ValueError(f"has no port; name it, for example {parts.netloc}:4317")
    return f"https://{parts.netloc}:443"


def _header_problems(headers: Mapping[str, str], protocol: Protocol) -> Iterator[str]:
    """Headers are named by their position: whoever mistyped one may have put the secret first."""
    for position, (name, value) in enumerate(headers.items(), start=1):
        lower = name.lower()
        if not name:
            yield f"header {position} has no name"
        elif not _HEADER_NAME.fullmatch(name):
            yield f"header {position} has a name that HTTP does not allow"
        elif lower in _FRAMING:
            yield f"header {position} ({lower}) is the transport's own; leave it out"
        elif protocol is Protocol.GRPC and (lower.startswith("grpc-") or lower.endswith("-bin")):
            yield f"header {position} ({lower}) has a name that gRPC reserves; leave it out"
        elif not _HEADER_VALUE.fullmatch(value):
            yield f"header {position} has a value with a line end or another character beyond printable ASCII"
