"""The OTEL_EXPORTER_OTLP_* variables, as the specification has them."""

from pathlib import Path

import opentelemetry.environment_variables
import opentelemetry.sdk.environment_variables
import pytest

from otel_connect.config import Compression, Layer, Protocol, build
from otel_connect.environment import environment_layer, state_layer, variables
from otel_connect.errors import ConfigError
from otel_connect.export.endpoint import Endpoint, resolve
from otel_connect.model import Signal

PREFIX = "OTEL_EXPORTER_OTLP_"


def problems(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        build([environment_layer(environ)])
    return caught.value.problems


@pytest.mark.parametrize("scope", ["", *(f"{signal.upper()}_" for signal in Signal)])
@pytest.mark.parametrize(
    ("option", "text", "key", "value"),
    [
        ("ENDPOINT", "https://collector:4318/otlp", "endpoint", "https://collector:4318/otlp"),
        ("PROTOCOL", "grpc", "protocol", "grpc"),
        ("PROTOCOL", "HTTP/Protobuf", "protocol", "http/protobuf"),
        ("HEADERS", "api-key=secret", "headers", {"api-key": "secret"}),
        ("COMPRESSION", "GZIP", "compression", "gzip"),
        ("TIMEOUT", "10000", "timeout_ms", 10_000),
        ("INSECURE", "TRUE", "insecure", True),
        ("INSECURE", "False", "insecure", False),
        ("CERTIFICATE", "/etc/ca.pem", "certificate", "/etc/ca.pem"),
        ("CLIENT_CERTIFICATE", "/etc/client.pem", "client_certificate", "/etc/client.pem"),
        ("CLIENT_KEY", " /etc/client.key ", "client_key", "/etc/client.key"),
    ],
)
def test_each_variable_becomes_a_key(scope: str, option: str, text: str, key: str, value: object) -> None:
    name = f"{PREFIX}{scope}{option}"
    layer = environment_layer({name: text, "PATH": "/bin", "OTEL_UNKNOWN": "1"})
    dotted = f"export.{scope.lower().replace('_', '.')}{key}"
    assert layer.values == {dotted: value}
    assert layer.origins == {dotted: name}


def test_the_variables_are_told_with_their_keys() -> None:
    told = variables()
    assert told[f"{PREFIX}LOGS_TIMEOUT"] == "export.logs.timeout_ms"
    assert told["OTEL_CONNECT_LISTEN"] == "serve.listen"
    assert len(told) == 9 * 4 + 3


def test_the_layer_builds_a_configuration() -> None:
    environ = {
        f"{PREFIX}ENDPOINT": "http://collector:4318",
        f"{PREFIX}COMPRESSION": "gzip",
        f"{PREFIX}LOGS_PROTOCOL": "grpc",
        f"{PREFIX}LOGS_HEADERS": "a=1",
        "OTEL_METRIC_EXPORT_INTERVAL": "5000",
    }
    export = build([environment_layer(environ)]).export
    assert export.endpoint == "http://collector:4318"
    assert export.compression is Compression.GZIP
    assert export.metric_interval_ms == 5000
    assert (export.logs.protocol, export.logs.headers) == (Protocol.GRPC, {"a": "1"})


OPTIONS = (
    *("ENDPOINT", "PROTOCOL", "HEADERS", "COMPRESSION", "TIMEOUT", "INSECURE"),
    *("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"),
)


@pytest.mark.parametrize("text", ["", " ", "\t"])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("scope", ["", *(f"{signal.upper()}_" for signal in Signal)])
def test_empty_counts_as_unset(scope: str, option: str, text: str) -> None:
    assert environment_layer({f"{PREFIX}{scope}{option}": text}) == Layer({}, {}, [], frozenset(), [])


def test_the_defaults_are_the_specifications() -> None:
    configured = build([Layer({"export.output": "otlp"}, {"export.output": "--output"}), environment_layer({})])
    for signal, endpoint in resolve(configured.export).items():
        assert endpoint == Endpoint(
            signal,
            Protocol.HTTP_PROTOBUF,
            f"http://localhost:4318/v1/{signal}",
            headers={},
            compression=Compression.NONE,
            timeout_s=10.0,
        )
        assert endpoint.certificate is endpoint.client_certificate is endpoint.client_key is None


@pytest.mark.parametrize("scope", ["", *(f"{signal.upper()}_" for signal in Signal)])
@pytest.mark.parametrize("text", ["0", "10", "99"])
def test_a_timeout_that_was_meant_in_seconds_is_refused(scope: str, text: str) -> None:
    said = f"is in milliseconds, and {text} are too few for any backend; write 10000 for ten seconds"
    assert problems({f"{PREFIX}{scope}TIMEOUT": text}) == (f"{PREFIX}{scope}TIMEOUT: {said}",)
    assert build([environment_layer({f"{PREFIX}{scope}TIMEOUT": "100"})])


@pytest.mark.parametrize("option", OPTIONS)
def test_a_signals_own_form_wins_for_that_signal_only(option: str) -> None:
    general, own = {
        "ENDPOINT": ("https://all", "https://own/x"),
        "PROTOCOL": ("http/protobuf", "grpc"),
        "HEADERS": ("a=all", "a=own"),
        "COMPRESSION": ("none", "gzip"),
        "TIMEOUT": ("100", "200"),
        "INSECURE": ("false", "true"),
    }.get(option, ("/all.pem", "/own.pem"))
    pair = {f"{PREFIX}CLIENT_{other}": "/all.pem" for other in ("CERTIFICATE", "KEY")}
    common = {**pair, f"{PREFIX}ENDPOINT": "https://all:1", f"{PREFIX}{option}": general}
    if option == "INSECURE":  # it speaks where the endpoint does not
        common |= {f"{PREFIX}PROTOCOL": "grpc", f"{PREFIX}ENDPOINT": "all:1"}
    before = resolve(build([environment_layer(common)]).export)
    after = resolve(build([environment_layer(common | {f"{PREFIX}LOGS_{option}": own})]).export)
    assert after[Signal.LOGS] != before[Signal.LOGS]
    assert (after[Signal.METRICS], after[Signal.TRACES]) == (before[Signal.METRICS], before[Signal.TRACES])


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("a=1,b=2", {"a": "1", "b": "2"}),
        (" A = 1 , b = 2 ,", {"a": "1", "b": "2"}),
        ("Authorization=Bearer%20abc%3D%3D", {"authorization": "Bearer abc=="}),
        ("authorization=Basic dXNlcjpwYXNz==", {"authorization": "Basic dXNlcjpwYXNz=="}),
        ("a=1+2;c=3", {"a": "1+2;c=3"}),
        ("a=x%2Cy", {"a": "x,y"}),
        ("a=%C3%A4", {"a": "ä"}),
        ("a=", {"a": ""}),
        ("a=1,a=2", {"a": "2"}),
    ],
)
def test_headers_are_read_as_baggage(text: str, headers: dict[str, str]) -> None:
    assert environment_layer({f"{PREFIX}HEADERS": text}).values == {"export.headers": headers}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s3cret", "header 1 has no =; write name=value"),
        ("a=1,s3cret", "header 2 has no =; write name=value, and a comma inside of a value as %2C"),
        ("a=1,,s3cret", "header 2 has no ="),
        ("=s3cret", "header 1 has no name before its ="),
        ("api-key%3Ds3cret", "header 1 has its = escaped as %3D; write the = after the name as it is"),
        ("a=1,api-key%3ds3cret", "header 2 has its = escaped as %3D"),
        ("authorization: s3cret", "header 1 has a colon after its name; write name=value"),
        ("authorization: Basic s3cret==", "header 1 has a colon after its name"),
        ("'api-key=s3cret'", "header 1 begins with a quotation mark; leave out the quotes"),
        ('"api-key=s3cret"', "header 1 begins with a quotation mark"),
        ("a b=s3cret", "header 1 has a name"),
        ("a=s3cret%2", "header 1 has a broken %-escape"),
        ("a=s3cret%zz", "header 1 has a broken %-escape"),
        ("a=s3cret%ff", "header 1 is not UTF-8"),
    ],
)
@pytest.mark.parametrize("scope", ["", "TRACES_"])
def test_malformed_headers_name_the_variable_and_never_the_value(scope: str, text: str, says: str) -> None:
    layer = environment_layer({f"{PREFIX}{scope}HEADERS": text})
    (line,) = layer.problems
    assert line.startswith(f"{PREFIX}{scope}HEADERS: {says}")
    assert ("comma" in line) == ("header 2 has no =" in line)  # the first member cannot be the rest of a value
    assert "s3cret" not in f"{layer}"


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("PROTOCOL", "http/json", "http/json is not supported; use http/protobuf or grpc"),
        ("PROTOCOL", "carrier-pigeon", "'carrier-pigeon'"),
        ("COMPRESSION", "zstd", "'zstd'"),
        ("TIMEOUT", "10s", "must be a whole number of milliseconds, such as 10000, not '10s'"),
        ("TIMEOUT", "1_000", "must be a whole number of milliseconds"),
        ("TIMEOUT", "-1", "must be a whole number of milliseconds"),
        ("TIMEOUT", "9" * 18, "must be 86400000 or less"),
        ("TIMEOUT", "9" * 19, "must be a whole number of milliseconds"),
        ("TIMEOUT", "9" * 5000, "must be a whole number of milliseconds"),
        ("INSECURE", "1", "must be true or false, not '1'"),
        ("INSECURE", "yes", "must be true or false, not 'yes'"),
    ],
)
def test_a_malformed_value_is_one_line_with_the_variable(option: str, text: str, says: str) -> None:
    (line,) = problems({f"{PREFIX}METRICS_{option}": text})
    assert line.startswith(f"{PREFIX}METRICS_{option}: ")
    assert says in line


def test_every_problem_is_reported_at_once() -> None:
    lines = problems({f"{PREFIX}TIMEOUT": "x", f"{PREFIX}LOGS_INSECURE": "x", "OTEL_METRIC_EXPORT_INTERVAL": "x"})
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("state", "directory"),
    [
        (None, "/var/lib/otel-connect/spool"),
        ("", "/var/lib/otel-connect/spool"),
        ("/var/lib/a", "/var/lib/a/spool"),
        ("/var/lib/a:/var/lib/b", "/var/lib/a/spool"),
    ],
)
def test_the_spool_lies_in_the_state_directory_of_a_systemd_unit(state: str | None, directory: str) -> None:
    environ = {} if state is None else {"STATE_DIRECTORY": state}
    assert build([state_layer(environ)]).export.spool_directory == directory
    file = Layer({"export.spool_directory": ""}, {"export.spool_directory": "a file"})
    assert not build([state_layer(environ), file]).export.spool_directory


@pytest.mark.parametrize("directory", ["somewhere", "./state", "~/state", "/a\nb"])
def test_a_state_directory_that_cannot_be_used_is_named_as_it_was_written(directory: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build([state_layer({"STATE_DIRECTORY": f"{directory}:/other"})])
    assert caught.value.problems == (f"STATE_DIRECTORY: must be an absolute path, not {directory!r}",)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPIONT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("OTEL_EXPORTER_OLTP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("OTEL_EXPORTER_OTLP_HEADER", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("OTEL_EXPORTER_OTLP_LOG_ENDPOINT", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"),
        ("OTEL_EXPORTER_OTLP_TRACE_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
        ("OTEL_EXPORTER_OTLP_METRIC_TIMEOUT", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT"),
        ("otel_exporter_otlp_endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("OTEL_METRICS_EXPORT_INTERVAL", "OTEL_METRIC_EXPORT_INTERVAL"),
        ("OTEL_RESOURCE_ATTRIBUTE", "OTEL_RESOURCE_ATTRIBUTES"),
        ("OTEL_CONNECT_LISTN", "OTEL_CONNECT_LISTEN"),
        ("OTEL_CONNECT_LOGFORMAT", "OTEL_CONNECT_LOG_FORMAT"),
    ],
)
def test_a_misspelt_variable_is_warned_about(name: str, meant: str) -> None:
    found = environment_layer({name: "s3cret"})
    assert found.warnings == [f"{name}: no such variable; did you mean {meant}?"]
    assert (found.values, found.problems) == ({}, [])
    assert environment_layer({name: ""}).warnings == []


@pytest.mark.parametrize("scope", ["", "LOGS_"])
@pytest.mark.parametrize("text", ["a=1,A=2", "a=1, a = 1", "a=1,,A=2"])
def test_headers_of_one_name_are_warned_about(scope: str, text: str) -> None:
    name = f"{PREFIX}{scope}HEADERS"
    found = environment_layer({name: text})
    assert found.warnings == [f"{name}: header 2 has the name of header 1 and replaces it; leave one out"]
    assert found.problems == []
    assert environment_layer({name: "a=1,b=a=2"}).warnings == []


@pytest.mark.parametrize("name", ["SDK_DISABLED", "LOGS_EXPORTER", "METRICS_EXPORTER", "TRACES_EXPORTER"])
def test_what_switches_signals_of_applications_is_not_read_and_the_page_says_so(name: str) -> None:
    assert environment_layer({f"OTEL_{name}": "none"}) == environment_layer({})
    page = (Path(__file__).parents[2] / "docs/configuration.md").read_text(encoding="utf-8")
    assert f"`OTEL_{name}`" in page.rpartition("the agent does not read them")[0]


def test_variables_of_others_are_not_warned_about() -> None:
    specified = (
        name
        for module in (opentelemetry.environment_variables, opentelemetry.sdk.environment_variables)
        for name in vars(module)
        if name.startswith("OTEL_")
    )
    # As Kubernetes makes them for a service that is called otel-connect.
    kubernetes = ("OTEL_CONNECT_PORT", "OTEL_CONNECT_SERVICE_HOST", "OTEL_CONNECT_PORT_9475_TCP_ADDR")
    ours = ("OTEL_CONNECT_SPOOL_DIRECTORY", "OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT", "PATH")
    assert environment_layer(dict.fromkeys((*specified, *kubernetes, *ours), "x")).warnings == []
