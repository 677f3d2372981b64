"""The detector as the SDK uses it."""

import os

import pytest
from opentelemetry.sdk.resources import Resource

from otel_connect.encode.resource import host_description
from otel_connect.host import machine_id


def test_the_sdk_finds_it_by_name_and_lets_the_operator_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "otel_connect")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=mine")
    resource = Resource.create({"service.name": "shop"}, "https://opentelemetry.io/schemas/1.30.0")
    found = {key: value for key, value in resource.attributes.items() if key.startswith(("host.", "os."))}
    assert found == host_description(os.uname(), machine_id()) | {"host.name": "mine"}
    assert found["host.arch"] in {"amd64", "arm64", "arm32", "x86", "ppc64", "s390x", "riscv64"}
    assert resource.schema_url.endswith("1.30.0")
