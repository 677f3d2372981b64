"""What is said of a value that cannot be used: where it stands and what to write, in the words of the configuration."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from otel_connect.checks import problems
from otel_connect.config import Configuration, Layer, build, load
from otel_connect.config.words import keys
from otel_connect.environment import environment_layer
from otel_connect.errors import ConfigError

# One of each kind that TOML has, and some at the edges of what a key may take.
VALUES: tuple[Any, ...] = (
    *("", "x", "10", "/x\0", "yes", "x" * 5000, "h:1", "unix:x"),
    *(0, 1, -1, 3, 10**30, 1.5, float("nan"), float("inf"), True, False),
    *(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC).date(), [], [1], ["x"], [{}], {}, {"x": 1}),
)
# Sections, and what lists are made of.
TABLES = ("capture", "export", "export.logs", "filter", "serve")
ENTRIES: Mapping[str, Mapping[str, Any]] = {
    "enrich.known_peers": {"cidr": "10.0.0.0/8", "name": "x", "port": 1},
    "filter.deny": {"executable": "/x", "cgroup": "/x", "uid": 1, "port": 1, "cidr": "10.0.0.0/8"},
    "filter.allow": {"uid": 1},
}
# Words of the library that validates, and of Python: none of them is in docs/configuration.md.
FOREIGN = re.compile(
    r"instance|dictionary|mapping|tuple|\bset of\b|input|pydantic|Config\b|Rule\b|KnownPeer|integer|string|boolean"
    r"|datetime|PosixPath|type=|unable to parse|Field|permitted|cannot be used",
    re.IGNORECASE,
)


def said(values: Mapping[str, Any], check: Any = None) -> tuple[str, ...]:
    layer = Layer(values, {key: f"otel-connect.toml: {key}" for key in values})
    try:
        load(Configuration, [layer], check)
    except ConfigError as error:
        return error.problems
    return ()


def wrong_values() -> Iterator[Mapping[str, Any]]:
    for key in (*keys(Configuration), *TABLES, "capture.unknown"):
        yield from ({key: value} for value in VALUES)
    for key, entry in ENTRIES.items():
        for name in entry:
            yield from ({key: [{**entry, name: value}]} for value in VALUES)
            yield {key: [{one: value for one, value in entry.items() if one != name}]}
        yield {key: [{**entry, "unknown": 1}]}
        yield {key: [entry, entry]}


def taken(key: str, value: object) -> Any:
    """Return what becomes of a value; ``None`` where it is refused."""
    try:
        configuration = build([Layer({key: value}, {key: key})])
    except ConfigError:
        return None
    return functools.reduce(getattr, key.split("."), configuration)


def test_no_value_is_turned_into_a_number_or_a_switch() -> None:
    """Whatever key there will be: what is taken as one is what was written."""
    checked: dict[type, set[str]] = {int: set(), bool: set()}
    for key in keys(Configuration):
        for value in (*VALUES, 5000, 5000.0, "5000", "true", 0.0, 1.0):
            found = taken(key, value)
            if type(found) in checked:
                assert (found, type(found)) == (value, type(value)), key
                checked[type(found)].add(key)
    assert len(checked[int]) > 20
    assert len(checked[bool]) > 10


def test_nothing_of_the_library_is_said_and_the_place_always() -> None:
    lines = [(values, line) for values in wrong_values() for line in said(values)]
    assert len(lines) > 1000
    for values, line in lines:
        (key,) = values
        assert line.startswith(f"otel-connect.toml: {key}"), line
        words = line.removeprefix(f"otel-connect.toml: {key}")
        assert not FOREIGN.search(re.sub(r", not .*", "", words)), line
        assert not re.search(r"\b(datetime|None|True|False)\b", words), line


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("capture.drain_interval_ms", "fast", "must be a whole number, not 'fast'"),
        ("capture.drain_interval_ms", 1.5, "must be a whole number, not 1.5"),
        ("capture.process_rate", True, "must be a whole number, not true"),
        ("capture.max_in_progress", "5", "must be a whole number, not '5'"),
        ("export.timeout_ms", True, "must be a whole number, not true"),
        ("export.logs.timeout_ms", 5000.0, "must be a whole number, not 5000.0"),
        ("filter.deny", [{"uid": True}], " (entry 1): uid: must be a whole number, not true"),
        (
            "enrich.known_peers",
            [{"cidr": "::/0", "name": "x", "port": "1"}],
            " (entry 1): port: must be a whole number",
        ),
        ("export.timeout_ms", 1, "is in milliseconds, and 1 are too few for any backend; write 10000 for ten seconds"),
        ("export.traces.timeout_ms", -1, "is in milliseconds, and -1 are too few for any backend"),
        ("export.timeout_ms", 86_400_001, "must be 86400000 or less, not 86400001"),
        ("export.insecure", "yes", "must be true or false, not 'yes'"),
        ("export.logs.insecure", "true", "must be true or false, not 'true'"),
        ("enrich.names", "no", "must be true or false, not 'no'"),
        ("enrich.names", 1, "must be true or false, not 1"),
        ("filter.count", 0.0, "must be true or false, not 0.0"),
        ("capture.drain_interval_ms", 0, "must be 1 or more, not 0"),
        ("capture.drain_interval_ms", 1001, "must be 1000 or less, not 1001"),
        ("enrich.names", "maybe", "must be true or false, not 'maybe'"),
        ("enrich.names", 2, "must be true or false, not 2"),
        ("export.output", "fax", "must be 'console', 'json' or 'otlp', not 'fax'"),
        ("enrich.mask_addresses", True, "must be 'none', 'prefix' or 'hash', not true"),
        ("export.endpoint", 5, "must be text in quotes, not 5"),
        ("export.certificate", 5, "must be the name of a file, in quotes, not 5"),
        ("export.headers", 5, "must be a table ([export.headers])"),
        ("export.logs", "http://x", "must be a table ([export.logs]), not 'http://x'"),
        ("export", 3, "must be a table ([export]), not 3"),
        ("filter.deny", "x", "must be a list, in square brackets, not 'x'"),
        ("filter.deny", [7], " (entry 1): must be a table ([[filter.deny]]), not 7"),
        ("filter.deny", [{"uid": 1 << 32}], " (entry 1): uid: must be less than 4294967296, not 4294967296"),
        ("enrich.known_peers", [{"cidr": "::/0"}], " (entry 1): name: must be set"),
        (
            "enrich.known_peers",
            [{"cidr": "::/0", "name": ""}],
            " (entry 1): name: must have 1 or more characters, not ''",
        ),
        ("filter.deny", [{"executable": "/" * 5000}], " (entry 1): executable: must have at most 4096 characters"),
        ("serve.listen", datetime(2026, 1, 2, tzinfo=UTC).date(), "must be text in quotes, not 2026-01-02"),
    ],
)
def test_each_kind_of_error_has_words_of_its_own(key: str, value: object, says: str) -> None:
    (line,) = said({key: value})
    expected = f"otel-connect.toml: {key}{says}" if says.startswith(" (") else f"otel-connect.toml: {key}: {says}"
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("export.endpiont", "export.endpoint"),
        ("capture.ring_byte", "capture.ring_bytes"),
        ("export.logs.endpiont", "export.logs.endpoint"),
        ("export.listen", "serve.listen"),
        ("endpoint", "export.endpoint"),
        ("enrich.span_name", "encode.span_name"),
        ("filters.deny", "filter"),
        ("exporter.endpoint", "export"),
        ("filter.denny", "filter.deny"),
    ],
)
def test_a_misspelt_key_has_a_suggestion(key: str, meant: str) -> None:
    (line,) = said({key: 1})
    shown = key if "." in meant or "." not in key else key.partition(".")[0]
    assert line == f"otel-connect.toml: {shown}: no such key; did you mean {meant}?"


def test_a_misspelt_key_of_an_entry_has_a_suggestion() -> None:
    (line,) = said({"filter.deny": [{"prot": 1}]})
    assert line == "otel-connect.toml: filter.deny (entry 1): prot: no such key; did you mean port?"


@pytest.mark.parametrize("key", ["encode.color", "colour", "x"])
def test_what_is_like_no_key_has_none(key: str) -> None:
    (line,) = said({key: 1})
    assert line == f"otel-connect.toml: {key}: no such key; see docs/configuration.md for those that exist"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("export.headers", {"authorization": ["hunter2"]}),
        ("export.headers", "authorization=hunter2"),
        ("export.endpoint", ["http://u:hunter2@h"]),
        ("enrich.kubelet_url", "https://u:hunter2@h:x"),
        ("serve.listen", "u:hunter2@h"),
        ("export.endpoint", "http://u:hunter2@h"),
        ("export.endpoint", "http://u:hunter2@h:x"),
        ("export.metrics.endpoint", "http://h/?key=hunter2"),
    ],
)
def test_what_may_be_a_secret_is_not_shown(key: str, value: object) -> None:
    found = said({key: value}, problems)
    assert found
    assert not [line for line in found if "hunter2" in line]


def layer(origin: str, **values: object) -> Layer:
    dotted = {key.replace("__", "."): value for key, value in values.items()}
    return Layer(dotted, {key: f"{origin}: {key}" for key in dotted})


def complaints(*layers: Layer) -> Sequence[str]:
    with pytest.raises(ConfigError) as caught:
        load(Configuration, layers, problems)
    return caught.value.problems


def test_everything_is_said_at_once_and_each_thing_by_what_set_it() -> None:
    file = layer(
        "a.toml",
        capture__ring_bytes=5000,
        encode__colour="red",
        enrich__mask_addresses="hash",
        enrich__kubelet_url="https://k:1",
        enrich__kubelet_certificate="/no/such/authority.pem",
        export__logs__headers={"a b": "1"},
    )
    environ = {
        "OTEL_EXPORTER_OTLP_TIMEOUT": "soon",
        "OTEL_EXPORTER_OTLP_HEADERS": "a=%0A",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/no/such/key.pem",
    }
    flags = Layer({"export.endpoint": "ftp://x"}, {"export.endpoint": "--endpoint"})
    found = complaints(file, environment_layer(environ), flags)
    assert {re.split(r": (?![a-z_]+\.)", line)[0] for line in found} == {
        "a.toml: capture.ring_bytes",
        "a.toml: encode.colour",
        "a.toml: enrich.mask_addresses",
        "a.toml: enrich.kubelet_certificate",
        "a.toml: export.logs.headers",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        "--endpoint",
    }
    assert len(found) == len(set(found)) == 10


def test_a_misspelt_variable_is_told_beside_the_errors_that_follow_from_it() -> None:
    environ = {"OTEL_EXPORTER_OTLP_CLIENT_KYE": "/k", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/c"}
    found = complaints(environment_layer(environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://h:1"}))
    assert [line.partition(";")[0] for line in found] == [
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: needs its private key",
        "OTEL_EXPORTER_OTLP_CLIENT_KYE: no such variable",
    ]


def test_files_are_looked_at_beside_what_is_wrong_elsewhere() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://h:1",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such/ca.pem",
        "OTEL_METRIC_EXPORT_INTERVAL": "x",
    }
    first, second = sorted(complaints(environment_layer(environ)))
    assert first.startswith("OTEL_EXPORTER_OTLP_CERTIFICATE: /no/such/ca.pem: certificate cannot be read")
    assert second.startswith("OTEL_METRIC_EXPORT_INTERVAL: must be a whole number")


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grcp", "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json", "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"},
        {"OTEL_EXPORTER_OTLP_CLIENT_KEY": "/a\0", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/b"}
        | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1"},
        {"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/a\0", "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/b"}
        | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1"},
    ],
)
def test_what_only_follows_from_another_error_is_not_said(environ: dict[str, str]) -> None:
    (line,) = complaints(environment_layer(environ))
    assert line.startswith(next(iter(environ)))


def test_nothing_is_concluded_from_a_file_that_cannot_be_read() -> None:
    broken = Layer({}, {}, ["a.toml: is not valid TOML"], frozenset({""}))
    environ = {"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/b", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1"}
    assert complaints(broken, environment_layer(environ)) == ("a.toml: is not valid TOML",)


@pytest.mark.parametrize(
    ("first", "second"),
    [({"export": 3}, {"export.endpoint": "http://x"}), ({"export.endpoint": "http://x"}, {"export": 3})],
)
def test_a_value_in_place_of_a_section_is_blamed_itself(first: dict[str, Any], second: dict[str, Any]) -> None:
    layers = [Layer(values, {key: f"place of {key}" for key in values}) for values in (first, second)]
    with pytest.raises(ConfigError) as caught:
        build(layers)
    assert caught.value.problems == ("place of export: must be a table ([export]), not 3",)
