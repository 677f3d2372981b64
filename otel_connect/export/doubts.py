"""What of the endpoints is allowed and hardly meant."""

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from otel_connect.config import ExportConfig, Protocol, SignalConfig
from otel_connect.config.words import repeated_headers
from otel_connect.export.endpoint import HTTP_PATH, Endpoint, resolve
from otel_connect.model import Signal

_FILES = ("certificate", "client_certificate", "client_key")


def doubts(config: ExportConfig) -> Iterator[str]:
    """Say it of a configuration that ``resolve`` accepts, each line beginning with its key."""
    overrides = {Signal.LOGS: config.logs, Signal.METRICS: config.metrics, Signal.TRACES: config.traces}
    for signal, own in overrides.items():
        yield from _path(signal, own, config)
    for key, headers in (
        ("export.headers", config.headers),
        *((f"export.{signal}.headers", own.headers) for signal, own in overrides.items()),
    ):
        yield from (f"{key}: {repeat}" for repeat in repeated_headers(headers or ()))
    yield from _unused_files(overrides, resolve(config))


def _path(signal: Signal, own: SignalConfig, config: ExportConfig) -> Iterator[str]:
    """Doubt a signal's own endpoint, which is posted to as it is, when it has no path or another signal's."""
    if own.endpoint is None or (own.protocol or config.protocol) is Protocol.GRPC:
        return
    path = urlsplit(own.endpoint).path.rstrip("/")
    if path == "" or any(path.endswith(other) for name, other in HTTP_PATH.items() if name != signal):
        yield (
            f"export.{signal}.endpoint: is posted to as it is, at {path or '/'}; "
            f"most backends take {signal} at {HTTP_PATH[signal]}"
        )


def _unused_files(overrides: Mapping[Signal, SignalConfig], endpoints: Mapping[Signal, Endpoint]) -> Iterator[str]:
    """Doubt certificates and keys that no endpoint uses, because none of theirs has TLS: mostly a wrong scheme."""
    for option in _FILES:
        uses: dict[str, list[Endpoint]] = {}
        for signal, endpoint in endpoints.items():
            if getattr(endpoint, option) is not None:
                own = getattr(overrides[signal], option) is not None
                uses.setdefault(f"export.{signal}.{option}" if own else f"export.{option}", []).append(endpoint)
        for key, those in uses.items():
            if not any(endpoint.secure for endpoint in those):
                yield f"{key}: is not used, because {those[0].server} has no TLS; write https:// or leave the file out"
