"""Where the telemetry goes, and how."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from otel_connect.config.section import Context, Section, Switch, Whole

_MOST_BYTES = 1 << 50
_DAY_MS = 86_400 * 1000
_SHORTEST_TIMEOUT_MS = 100


class Output(StrEnum):
    """Where attempts go."""

    CONSOLE = "console"
    JSON = "json"
    OTLP = "otlp"


class Protocol(StrEnum):
    """The OTLP transports, spelled as OTEL_EXPORTER_OTLP_PROTOCOL spells them."""

    GRPC = "grpc"
    HTTP_PROTOBUF = "http/protobuf"


class Compression(StrEnum):
    """The OTLP compressions, spelled as OTEL_EXPORTER_OTLP_COMPRESSION spells them."""

    NONE = "none"
    GZIP = "gzip"


def is_absolute(directory: str) -> bool:
    """Whether a directory to be written to can be used: it has to be the same for every start, and in every message."""
    return directory.startswith("/") and directory.isprintable()


def _file(value: Path, info: ValidationInfo) -> Path:
    if "\0" in str(value) or value == Path():
        raise ValueError("must be the name of a file")
    return info.context.started_in / value if isinstance(info.context, Context) else value


def _enough(value: int) -> int:
    if value < _SHORTEST_TIMEOUT_MS:
        raise ValueError(f"is in milliseconds, and {value} are too few for any backend; write 10000 for ten seconds")
    return value


Timeout = Annotated[Whole, AfterValidator(_enough), Field(ge=_SHORTEST_TIMEOUT_MS, le=_DAY_MS)]
"""For one request, in milliseconds. Some SDKs read the same variable as seconds, so a few are refused."""

File = Annotated[Path, AfterValidator(_file)]
"""A file that is read; whether it can be is seen then. A relative path is taken from the context of the validation."""


class SignalConfig(Section):
    """What one signal overrides of ``export``; the variables are OTEL_EXPORTER_OTLP_<SIGNAL>_*."""

    endpoint: str | None = None
    """With HTTP the whole URL, path included, as the specification has it for single signals."""
    protocol: Protocol | None = None
    headers: Mapping[str, str] | None = Field(default=None, repr=False)
    compression: Compression | None = None
    timeout_ms: Timeout | None = None
    insecure: Switch | None = None
    certificate: File | None = None
    client_certificate: File | None = None
    client_key: File | None = None


class ExportConfig(Section):
    """Where the telemetry goes, and how; the variables are OTEL_EXPORTER_OTLP_*."""

    output: Output | None = None
    """``None``: otlp when there is an endpoint, else console."""
    endpoint: str | None = None
    """The base URL; with HTTP ``/v1/logs`` and so on are appended."""
    protocol: Protocol = Protocol.HTTP_PROTOBUF
    headers: Mapping[str, str] = Field(default_factory=dict, repr=False)
    compression: Compression = Compression.NONE
    timeout_ms: Timeout = 10_000
    """For one request; milliseconds, as the specification says."""
    insecure: Switch = False
    """gRPC without TLS when the endpoint has no scheme."""
    certificate: File | None = None
    client_certificate: File | None = None
    client_key: File | None = None
    logs: SignalConfig = SignalConfig()
    metrics: SignalConfig = SignalConfig()
    traces: SignalConfig = SignalConfig()
    flush_interval_ms: Annotated[Whole, Field(ge=10, le=60_000)] = 200
    """How long attempts wait to share a request."""
    metric_interval_ms: Annotated[Whole, Field(ge=100, le=_DAY_MS)] = 60_000
    """OTEL_METRIC_EXPORT_INTERVAL."""
    spool_directory: str = "/var/lib/otel-connect/spool"
    """Where requests wait for the backend, durably; empty: in memory only."""
    spool_bytes: Annotated[Whole, Field(ge=1 << 20, le=_MOST_BYTES)] = 512 << 20
    """Serialized requests that may wait on disk, all signals together; beyond it the oldest are dropped."""
    queue_bytes: Annotated[Whole, Field(ge=1 << 16, le=_MOST_BYTES)] = 64 << 20
    """The same in memory: without a directory, or while the disk cannot be written."""
    concurrency: Annotated[Whole, Field(ge=1, le=32)] = 1
    """Requests of one signal that may be under way at one time."""
    request_bytes: Annotated[Whole, Field(ge=1 << 12, le=1 << 30)] = 3 << 20
    """The largest request made; collectors refuse 4 MiB by gRPC."""

    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @property
    def origins(self) -> Mapping[str, str]:
        """What set it, for messages about an endpoint while the agent runs; by key, as in ``Context``."""
        return self._origins

    @model_validator(mode="after")
    def _know_what_set_it(self, info: ValidationInfo) -> Self:
        if isinstance(info.context, Context):
            self._origins = info.context.origins
        return self

    @field_validator("spool_directory")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if value and not is_absolute(value):
            raise ValueError("must be an absolute path, or empty for memory only")
        return value
