"""What a process published in its environment: as the specification has it, and as nobody should."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.enrich.published import (
    MOST_ATTRIBUTES,
    MOST_KEY_LENGTH,
    MOST_VALUE_LENGTH,
    bounded,
    from_environment,
)

CASES = {
    "": {},
    "a=b": {"a": "b"},
    "service.name=shop,service.namespace=web": {"service.name": "shop", "service.namespace": "web"},
    " a = b , c = d ": {"a": "b", "c": "d"},
    "a=b=c": {"a": "b=c"},
    "a=b%2Cc%3Dd": {"a": "b,c=d"},
    "k%20e=v%20v": {"k e": "v v"},
    "a=caf%C3%A9": {"a": "café"},
    "a=%ff%fe": {"a": "\\xff\\xfe"},
    "a=100%": {"a": "100%"},
    "a=%zz": {"a": "%zz"},
    "a=1,,b=2,": {"a": "1", "b": "2"},
    "lonely,a=1": {"a": "1"},
    "=x,a=1": {"a": "1"},
    "a=,b=2": {"b": "2"},
    "a=1,a=2": {"a": "1"},
    "process.pid=1,host.name=h,telemetry.sdk.name=x,os.type=z,otel_connect.outcome=o,a=1": {"a": "1"},
    "processor=1,hostile=2": {"processor": "1", "hostile": "2"},
}


@pytest.mark.parametrize(("value", "attributes"), CASES.items())
def test_resource_attributes(value: str, attributes: dict[str, str]) -> None:
    assert from_environment([("OTEL_RESOURCE_ATTRIBUTES", value)]) == attributes


def test_the_variable_of_the_name_wins() -> None:
    both = [("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,b=c"), ("OTEL_SERVICE_NAME", " shop ")]
    assert from_environment(both) == {"service.name": "shop", "b": "c"}
    assert from_environment([("OTEL_SERVICE_NAME", "  ")]) == {}
    assert from_environment([("OTEL_SERVICE_NAME", "per%20cent")]) == {"service.name": "per%20cent"}


def test_other_variables_are_not_read() -> None:
    assert from_environment([("OTEL_EXPORTER_OTLP_HEADERS", "authorization=x"), ("PATH", "a=b")]) == {}


def test_size_is_bounded() -> None:
    many = ",".join(f"k{number}={'v' * 1000}" for number in range(1000))
    kept = from_environment([("OTEL_RESOURCE_ATTRIBUTES", many)])
    assert kept == {f"k{number}": "v" * MOST_VALUE_LENGTH for number in range(MOST_ATTRIBUTES)}
    assert bounded([("k" * MOST_KEY_LENGTH, "v"), ("k" * (MOST_KEY_LENGTH + 1), "v")]) == {"k" * MOST_KEY_LENGTH: "v"}


@given(st.text() | st.lists(st.sampled_from([*"ab=,% \x00é", "%2C", "%ff", "service.name"])).map("".join))
def test_garbage_yields_attributes_within_bounds(value: str) -> None:
    for key, text in from_environment([("OTEL_RESOURCE_ATTRIBUTES", value)]).items():
        assert 0 < len(key) <= MOST_KEY_LENGTH
        assert 0 < len(text) <= MOST_VALUE_LENGTH
