"""Every OTEL_EXPORTER_OTLP_* variable of an application, which nothing in them may keep from starting."""

from pathlib import Path

import pytest

from otel_connect.config import Compression, Protocol
from otel_connect.export.endpoint import Endpoint, resolve
from otel_connect.model import Signal
from otel_connect.plugin.settings import read_settings

PREFIX = "OTEL_EXPORTER_OTLP_"
SCOPES = ["", *(f"{signal.upper()}_" for signal in Signal)]
HERE = str(Path(__file__))


def endpoint(environ: dict[str, str], signal: Signal = Signal.LOGS) -> Endpoint:
    settings = read_settings(environ)
    assert (settings.left_out, settings.withheld) == ((), ())
    return resolve(settings.export)[signal]


def test_the_defaults_are_the_specifications() -> None:
    for signal in Signal:
        found = endpoint({}, signal)
        assert found == Endpoint(signal, Protocol.HTTP_PROTOBUF, f"http://localhost:4318/v1/{signal}", {}, timeout_s=10)
    assert endpoint({f"{PREFIX}PROTOCOL": "grpc"}).url == "http://localhost:4317"


VALUES: dict[str, tuple[str, str, object]] = {
    "ENDPOINT": ("http://collector:4318/x", "url", None),
    "PROTOCOL": ("grpc", "protocol", Protocol.GRPC),
    "HEADERS": ("api-key=a%20b,x=1", "headers", {"api-key": "a b", "x": "1"}),
    "COMPRESSION": ("gzip", "compression", Compression.GZIP),
    "TIMEOUT": ("2500", "timeout_s", 2.5),
}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("option", VALUES)
def test_each_has_a_generic_form_and_one_for_each_signal(scope: str, option: str) -> None:
    text, field, value = VALUES[option]
    for signal in Signal:
        concerned = scope in {"", f"{signal.upper()}_"}
        found = getattr(endpoint({f"{PREFIX}{scope}{option}": text}, signal), field)
        default = getattr(endpoint({}, signal), field)
        expected = value or (text if scope else f"{text}/v1/{signal}")
        assert found == (expected if concerned else default)
        assert found != default or not concerned


@pytest.mark.parametrize("option", VALUES)
def test_the_signals_own_wins(option: str) -> None:
    text, field, expected = VALUES[option]
    other = {
        "ENDPOINT": "http://o",
        "PROTOCOL": "http/protobuf",
        "HEADERS": "o=o",
        "COMPRESSION": "none",
        "TIMEOUT": "100",
    }
    environ = {f"{PREFIX}{option}": other[option], f"{PREFIX}LOGS_{option}": text}
    assert getattr(endpoint(environ), field) == (expected if expected is not None else text)


@pytest.mark.parametrize("option", [*VALUES, "INSECURE", "CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"])
@pytest.mark.parametrize("scope", SCOPES)
def test_empty_counts_as_unset(scope: str, option: str) -> None:
    assert read_settings({f"{PREFIX}{scope}{option}": " "}) == read_settings({})


def test_insecure_is_for_grpc_without_a_scheme() -> None:
    environ = {f"{PREFIX}PROTOCOL": "grpc", f"{PREFIX}ENDPOINT": "collector:4317"}
    assert endpoint(environ).secure
    assert not endpoint(environ | {f"{PREFIX}LOGS_INSECURE": "true"}).secure


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("PROTOCOL", "carrier-pigeon"),
        ("PROTOCOL", "http/json"),
        ("COMPRESSION", "zstd"),
        ("TIMEOUT", "10s"),
        ("TIMEOUT", "0"),
        ("TIMEOUT", "-1"),
        ("TIMEOUT", "999999999999999999"),
        ("INSECURE", "perhaps"),
    ],
)
def test_how_to_send_falls_back_to_the_default_with_one_line(scope: str, option: str, text: str) -> None:
    name = f"{PREFIX}{scope}{option}"
    settings = read_settings({name: text, f"{PREFIX}HEADERS": "a=1"})
    (line,) = settings.left_out
    assert line.startswith(f"{name}: ")
    assert settings._replace(left_out=()) == read_settings({f"{PREFIX}HEADERS": "a=1"})
    assert settings.withheld == ()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("ENDPOINT", "collector:4318", "has no scheme"),
        ("ENDPOINT", "http://user:s3cret@collector", "carries credentials"),
        ("ENDPOINT", "http://collector:port", "has a port"),
        ("HEADERS", "s3cret", "header 1 has no =; write name=value"),
        ("HEADERS", "a=s3cret%zz", "broken %-escape"),
        ("CLIENT_KEY", "/etc/key.pem", "needs its certificate; set OTEL_EXPORTER_OTLP_"),
        ("CLIENT_CERTIFICATE", "/etc/cert.pem", "needs its private key; set OTEL_EXPORTER_OTLP_"),
    ],
)
def test_where_to_send_is_never_guessed(scope: str, option: str, text: str, says: str) -> None:
    name = f"{PREFIX}{scope}{option}"
    settings = read_settings({name: text})
    (line,) = settings.withheld
    assert line.startswith(f"{name}: ")
    assert says in line
    assert "s3cret" not in f"{settings}"
    assert settings.left_out == ()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("path", "says"), [("/nowhere/ca.pem", "cannot be read"), (HERE, "no usable certificate")])
def test_a_certificate_that_cannot_be_used_is_one_line(scope: str, path: str, says: str) -> None:
    settings = read_settings({f"{PREFIX}ENDPOINT": "https://collector", f"{PREFIX}{scope}CERTIFICATE": path})
    (line,) = settings.withheld
    assert line.startswith(f"{PREFIX}{scope}CERTIFICATE: {path}: ")
    assert says in line


def test_every_problem_has_its_line() -> None:
    settings = read_settings(
        {
            f"{PREFIX}TIMEOUT": "x",
            f"{PREFIX}LOGS_COMPRESSION": "x",
            f"{PREFIX}ENDPOINT": "x",
            f"{PREFIX}TRACES_HEADERS": "x",
        }
    )
    assert (len(settings.left_out), len(settings.withheld)) == (2, 2)


@pytest.mark.parametrize(
    "name", ["METRICS_TEMPORALITY_PREFERENCE", "METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "SPAN_INSECURE"]
)
def test_what_others_read_is_left_to_them(name: str) -> None:
    assert read_settings({f"{PREFIX}{name}": "x"}) == read_settings({})


def test_a_timeout_that_was_meant_in_seconds_is_not_used() -> None:
    found = read_settings({f"{PREFIX}TIMEOUT": "10"})
    said = "is in milliseconds, and 10 are too few for any backend; write 10000 for ten seconds"
    assert found.left_out == (f"{PREFIX}TIMEOUT: {said}",)
    assert (found.export.timeout_ms, found.withheld) == (10_000, ())
