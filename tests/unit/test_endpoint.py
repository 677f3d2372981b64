"""Where each signal goes, by the specification's rules."""

import re
from pathlib import Path

import pytest

from otel_connect.config import Compression, ExportConfig, Output, Protocol, SignalConfig, build
from otel_connect.environment import environment_layer
from otel_connect.errors import ConfigError
from otel_connect.export.doubts import doubts
from otel_connect.export.endpoint import output_kind, resolve
from otel_connect.model import Signal

HTTP, GRPC = Protocol.HTTP_PROTOBUF, Protocol.GRPC


def url(config: ExportConfig, signal: Signal = Signal.LOGS) -> str:
    return resolve(config)[signal].url


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://collector:4318", "http://collector:4318/v1/logs"),
        ("http://collector:4318/", "http://collector:4318/v1/logs"),
        ("https://collector", "https://collector/v1/logs"),
        ("https://collector/otlp", "https://collector/otlp/v1/logs"),
        ("https://collector/otlp//", "https://collector/otlp/v1/logs"),
        ("HTTP://[::1]:4318", "http://[::1]:4318/v1/logs"),
    ],
)
def test_a_base_endpoint_gets_the_signals_path(endpoint: str, expected: str) -> None:
    assert url(ExportConfig(endpoint=endpoint)) == expected


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://collector:4318", "http://collector:4318/"),
        ("http://collector:4318/", "http://collector:4318/"),
        ("http://collector:4318/my/logs/", "http://collector:4318/my/logs/"),
    ],
)
def test_a_signals_own_endpoint_is_used_as_it_is(endpoint: str, expected: str) -> None:
    assert url(ExportConfig(endpoint="http://base", logs=SignalConfig(endpoint=endpoint))) == expected


@pytest.mark.parametrize(
    ("endpoint", "insecure", "expected"),
    [
        ("http://collector:4317", False, "http://collector:4317"),
        ("http://collector:4317/", False, "http://collector:4317"),
        ("https://collector:4317", True, "https://collector:4317"),
        ("collector:4317", False, "https://collector:4317"),
        ("collector:4317", True, "http://collector:4317"),
        ("https://collector", False, "https://collector:443"),
        ("collector", False, "https://collector:443"),
        ("[::1]:4317", True, "http://[::1]:4317"),
    ],
)
def test_grpc_takes_the_scheme_before_the_insecure_option(endpoint: str, insecure: bool, expected: str) -> None:
    endpoint_ = resolve(ExportConfig(endpoint=endpoint, protocol=GRPC, insecure=insecure))[Signal.TRACES]
    assert (endpoint_.url, endpoint_.secure) == (expected, expected.startswith("https"))


@pytest.mark.parametrize(
    ("own", "says"),
    [
        (SignalConfig(endpoint="http://c:4318"), "is posted to as it is, at /; most backends take logs at /v1/logs"),
        (SignalConfig(endpoint="http://c:4318/"), "is posted to as it is, at /; most backends take logs at /v1/logs"),
        (SignalConfig(endpoint="http://c/v1/traces"), "is posted to as it is, at /v1/traces; most backends take logs"),
        (SignalConfig(endpoint="http://c:4318/v1/logs"), ""),
        (SignalConfig(endpoint="http://c/loki/otlp/v1/logs"), ""),
        (SignalConfig(endpoint="http://c/ingest"), ""),
        (SignalConfig(endpoint="http://c:4317", protocol=GRPC), ""),
        (SignalConfig(), ""),
    ],
)
def test_a_signals_own_endpoint_is_doubted_where_it_is_hardly_meant(own: SignalConfig, says: str) -> None:
    found = list(doubts(ExportConfig(endpoint="http://base", logs=own)))
    assert [line.startswith(f"export.logs.endpoint: {says}") for line in found] == [True] * bool(says)


def test_nothing_configured_goes_nowhere() -> None:
    assert resolve(ExportConfig()) == {}
    assert resolve(ExportConfig(output=Output.CONSOLE)) == {}


@pytest.mark.parametrize(
    "config",
    [
        ExportConfig(output=Output.OTLP),
        ExportConfig(traces=SignalConfig(endpoint="http://elsewhere/")),
    ],
)
def test_once_otlp_is_wanted_the_default_is_the_specifications(config: ExportConfig) -> None:
    assert url(config, Signal.LOGS) == "http://localhost:4318/v1/logs"
    assert url(config, Signal.METRICS) == "http://localhost:4318/v1/metrics"
    by_grpc = config.model_copy(update={"protocol": GRPC, "traces": SignalConfig(endpoint="http://e:1")})
    assert url(by_grpc) == "http://localhost:4317"


@pytest.mark.parametrize("host", ["dns", "file", "unix", "vsock"])
def test_a_host_may_have_the_name_of_a_scheme(host: str) -> None:
    config = ExportConfig(endpoint=f"{host}:4317", protocol=GRPC, insecure=True)
    assert url(config) == f"http://{host}:4317"


def test_a_signal_overrides_option_by_option() -> None:
    own = SignalConfig(protocol=GRPC, headers={"B": "2"}, timeout_ms=500, certificate=Path("own.pem"))
    config = ExportConfig(
        endpoint="https://collector:4318",
        headers={"A": "1"},
        compression=Compression.GZIP,
        client_certificate=Path("c.pem"),
        client_key=Path("c.key"),
        traces=own,
    )
    logs, traces = resolve(config)[Signal.LOGS], resolve(config)[Signal.TRACES]
    assert (logs.protocol, logs.headers, logs.timeout_s, logs.certificate) == (HTTP, {"a": "1"}, 10.0, None)
    assert (traces.protocol, traces.headers, traces.timeout_s) == (GRPC, {"b": "2"}, 0.5)
    assert (traces.certificate, traces.client_key) == (Path("own.pem"), Path("c.key"))
    assert traces.compression is logs.compression is Compression.GZIP


@pytest.mark.parametrize(
    ("protocol", "endpoint", "says"),
    [
        (HTTP, "collector:4318", "has no scheme; begin with http:// or https://"),
        (HTTP, "", "is empty"),
        (HTTP, "http://", "has no host: 'http://'; write http://HOST:4318"),
        (HTTP, "http://:4318", "has no host"),
        (HTTP, "http://..:4318", "has a host that cannot be looked up: 'http://..:4318'"),
        (HTTP, "http://a..b", "has a host that cannot be looked up"),
        (HTTP, "http://a|b", "has a host that cannot be looked up"),
        (HTTP, "http://[x]:4318", "has a"),
        (GRPC, "..:4317", "has a host that cannot be looked up"),
        (HTTP, "ftp://collector", "unknown scheme 'ftp'"),
        (HTTP, "http://collector:port", "has a port"),
        (HTTP, "http://collector:99999", "has a port"),
        (HTTP, "http://collector:0", "has no usable port: 'http://collector:0'; write http://HOST:4318"),
        (GRPC, "https://collector:", "has no usable port: 'https://collector:'; write https://HOST:4317"),
        (
            *(HTTP, "https://unix:/tmp/x"),
            "has no usable port: 'https://unix:/tmp/x'; write https://HOST:4318; Unix sockets are not supported",
        ),
        (HTTP, "http://[::1", "bracketed address"),
        (HTTP, "http://col lector", "no URL may have"),
        (HTTP, "http://collector\r\nX: y", "no URL may have"),
        (HTTP, "http://user:s3cret@collector", "carries credentials"),
        (HTTP, "http://user:s3cret@collector:port", "has a port"),
        (HTTP, "http://s3cret@collector", "carries credentials"),
        (HTTP, "http://collector?api-key=s3cret", "carries a query"),
        (HTTP, "http://collector/#s3cret", "carries a query or a fragment"),
        (GRPC, "unix:///run/otlp.sock", "unknown scheme 'unix'; use http or https, with a host"),
        (GRPC, "unix:/tmp/x", "unknown scheme 'unix'; use http or https, with a host"),
        (GRPC, "unix-abstract:x", "unknown scheme 'unix-abstract'"),
        (GRPC, "dns:collector:4317", "unknown scheme 'dns'"),
        (HTTP, "unix:/tmp/x", "unknown scheme 'unix'"),
        (HTTP, "http://collector/v1/logs", "ends in /v1/logs, and the path of each signal is appended to it; leave"),
        (HTTP, "http://collector/otlp/v1/traces/", "ends in /v1/traces, and the path of each signal is appended"),
        (GRPC, "http://collector", "has no port; name it, for example collector:4317"),
        (GRPC, "user:s3cret@collector:4317", "carries credentials"),
        (GRPC, "http://collector:4317/v1/logs", "has a path"),
        (GRPC, ":4317", "has no host: ':4317'; write https://HOST:4317"),
    ],
)
def test_a_malformed_endpoint_is_one_line_without_a_secret(protocol: Protocol, endpoint: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(ExportConfig(endpoint=endpoint, protocol=protocol))
    (line,) = caught.value.problems
    assert line.startswith("export.endpoint: ")
    assert says in line
    assert "s3cret" not in f"{line}{caught.value.__cause__}"
    # What is quoted was written so: no scheme is put in front of it.
    assert all(quoted in endpoint for quoted in re.findall(r"'(\S+:\S*)'", line))


@pytest.mark.parametrize(
    ("protocol", "name", "value", "says"),
    [
        (HTTP, "a b", "s3cret", "header 2 has a name that HTTP does not allow"),
        (HTTP, "", "s3cret", "header 2 has no name"),
        (HTTP, "a", "s3cret\r\nX: y", "header 2 has a value with a line end"),
        (HTTP, "a", "s3cret\udcff", "header 2 has a value"),
        (HTTP, "Content-Length", "s3cret", "header 2 (content-length) is the transport's own"),
        (HTTP, "Host", "s3cret", "header 2 (host) is the transport's own"),
        (GRPC, "host", "s3cret", "header 2 (host) is the transport's own"),
        (HTTP, "Expect", "s3cret", "header 2 (expect) is the transport's own"),
        (GRPC, "keep-alive", "s3cret", "header 2 (keep-alive) is the transport's own"),
        (GRPC, "grpc-timeout", "s3cret", "header 2 (grpc-timeout) has a name that gRPC reserves"),
        (GRPC, "trace-bin", "s3cret", "header 2 (trace-bin) has a name that gRPC reserves"),
    ],
)
def test_unusable_headers_are_told_by_position(protocol: Protocol, name: str, value: str, says: str) -> None:
    config = ExportConfig(
        endpoint="http://collector:4317",
        metrics=SignalConfig(protocol=protocol, headers={"fine": "yes", name: value}),
    )
    with pytest.raises(ConfigError) as caught:
        resolve(config)
    (line,) = caught.value.problems
    assert line.startswith(f"export.metrics.headers: {says}")
    assert "s3cret" not in line


def test_every_problem_is_reported_once() -> None:
    config = ExportConfig(
        endpoint="nowhere",
        client_certificate=Path("c.pem"),
        traces=SignalConfig(endpoint="http://", client_key=Path("t.key")),
        metrics=SignalConfig(headers={"ü": ""}),
    )
    with pytest.raises(ConfigError) as caught:
        resolve(config)
    assert [line.partition(":")[0] for line in caught.value.problems] == [
        "export.endpoint",
        "export.client_certificate",
        "export.metrics.headers",
        "export.traces.endpoint",
    ]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (ExportConfig(headers={"a": "1", "b": "2", "A": "3"}), ["export.headers: header 3 has the name of header 1"]),
        (
            ExportConfig(metrics=SignalConfig(headers={"X-Key": "1", "x-key": "2"})),
            ["export.metrics.headers: header 2 has the name of header 1 and replaces it; leave one out"],
        ),
        (ExportConfig(headers={"a": "1"}, logs=SignalConfig(headers={"A": "2"})), []),
    ],
)
def test_headers_of_one_name_are_doubted(config: ExportConfig, says: list[str]) -> None:
    found = list(doubts(config))
    assert len(found) == len(says)
    assert all(line.startswith(start) for line, start in zip(found, says, strict=True))


CA = Path("/ca.pem")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            ExportConfig(endpoint="http://c", certificate=CA),
            ["export.certificate: is not used, because http://c has no TLS; write https:// or leave the file out"],
        ),
        (
            ExportConfig(endpoint="c:4317", protocol=GRPC, insecure=True, client_certificate=CA, client_key=CA),
            [
                "export.client_certificate: is not used, because http://c:4317 has no TLS",
                "export.client_key: is not used, because http://c:4317 has no TLS",
            ],
        ),
        (
            ExportConfig(endpoint="https://c", certificate=CA, logs=SignalConfig(endpoint="http://l", certificate=CA)),
            ["export.logs.certificate: is not used, because http://l has no TLS"],
        ),
        (ExportConfig(output=Output.OTLP, certificate=CA), ["export.certificate: is not used, because http://local"]),
        (ExportConfig(endpoint="https://c", certificate=CA), []),
        # Of use for the other two signals.
        (ExportConfig(endpoint="https://c", certificate=CA, logs=SignalConfig(endpoint="http://l/v1/logs")), []),
    ],
)
def test_certificates_without_tls_are_doubted(config: ExportConfig, says: list[str]) -> None:
    found = [line for line in doubts(config) if "posted to" not in line]
    assert len(found) == len(says)
    assert all(line.startswith(start) for line, start in zip(found, says, strict=True))


def test_a_key_needs_its_certificate() -> None:
    with pytest.raises(ConfigError, match=r"export\.logs\.client_key: needs its certificate"):
        resolve(ExportConfig(endpoint="https://c", logs=SignalConfig(client_key=Path("c.key"))))


def test_secrets_are_not_shown() -> None:
    endpoint = resolve(ExportConfig(endpoint="https://c", headers={"Api-Key": "s3cret"}))[Signal.LOGS]
    assert "s3cret" not in f"{endpoint} {endpoint!r}"
    assert str(endpoint) == "https://c/v1/logs (http/protobuf, api-key=***)"


def test_the_output_is_the_one_that_was_chosen_or_else_follows_from_the_endpoints() -> None:
    assert output_kind(ExportConfig()) is Output.CONSOLE
    assert output_kind(ExportConfig(endpoint="http://x:4318")) is Output.OTLP
    assert output_kind(ExportConfig(output=Output.JSON, endpoint="http://x:4318")) is Output.JSON
    assert output_kind(ExportConfig(output=Output.OTLP)) is Output.OTLP


def test_each_option_knows_what_set_it() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "500",
        "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "700",
    }
    endpoints = resolve(build([environment_layer(environ)]).export)
    assert endpoints[Signal.LOGS].origins == {
        "endpoint": "OTEL_EXPORTER_OTLP_ENDPOINT",
        "timeout_ms": "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
    }
    assert endpoints[Signal.TRACES].origins["timeout_ms"] == "OTEL_EXPORTER_OTLP_TIMEOUT"
