"""What tests of the kernel share: a network to connect in, and the probes at work for all tests of a module."""

from collections.abc import Iterator

import pytest

from tests.support.bench import Bench
from tests.support.captured import Captured, captured


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench() as made:
        yield made


@pytest.fixture(scope="module")
def probes() -> Iterator[Captured]:
    with captured() as made:
        yield made


@pytest.fixture
def seen(probes: Captured) -> Captured:
    probes.forget()
    return probes
