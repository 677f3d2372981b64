"""A bound on the attribute sets of the attempt metrics. Pure.

The SDK has a bound of its own, but past it whole attribute sets collapse into one without a word. Here the
attributes that grow without end are given up one after the other: first the server's address, then the
executable's name together with the port. What remains (outcome, error type, network type) has fewer than
a hundred values, so every attempt is counted somewhere and no total is ever wrong.
"""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from otel_connect.encode.attributes import (
    ERROR_TYPE,
    NETWORK_TYPE,
    OUTCOME,
    PROCESS_EXECUTABLE_NAME,
    SERVER_ADDRESS,
    SERVER_PORT,
    error_type,
    network_type,
    valid_text,
)
from otel_connect.encode.durations import Durations
from otel_connect.model import Attempt, Detail, Outcome, Tallied

OTHER = "_other"


class MetricKey(NamedTuple):
    """What the metrics tell attempts apart by; ``None`` where an attempt has no such attribute."""

    outcome: Outcome
    error_type: str | None
    network_type: str | None
    executable_name: str
    address: str | None
    port: int | None


def metric_key(attempt: Attempt) -> MetricKey:
    """Return the exact key of an attempt."""
    return MetricKey(
        attempt.verdict.outcome,
        error_type(attempt.verdict),
        network_type(attempt.event.family),
        attempt.process.executable_name,
        *attempt.event.target,
    )


def tallied_key(tallied: Tallied) -> MetricKey:
    """Return the key of a tally, with ``_other`` for whom it does not tell apart."""
    return MetricKey(
        tallied.verdict.outcome,
        error_type(tallied.verdict),
        network_type(tallied.event.family),
        OTHER if tallied.named is None else tallied.named.process.executable_name,
        *tallied.event.target,
    )


class Series:
    """One attribute set, how many attempts it has had since the last collection, and how long they took."""

    __slots__ = ("attributes", "count", "durations", "overflowed", "start_unix_ns")

    def __init__(self, key: MetricKey, *, overflowed: bool) -> None:
        attributes = {
            OUTCOME: key.outcome.value,
            ERROR_TYPE: key.error_type,
            NETWORK_TYPE: key.network_type,
            PROCESS_EXECUTABLE_NAME: valid_text(key.executable_name),
            SERVER_ADDRESS: None if key.address is None else valid_text(key.address),
            SERVER_PORT: key.port,
        }
        self.attributes = {name: value for name, value in attributes.items() if value is not None}
        self.count = 0
        self.durations: Durations | None = None
        """``None`` before the first attempt with an end."""
        self.start_unix_ns = 0
        """When that began to be counted."""
        self.overflowed = overflowed
        """Whether some attributes had to be given up."""


class AttributeSets:
    """Finds the series of a key, and keeps no more than ``limit`` different ones.

    Eight tenths of the limit are exact sets, one tenth has ``_other`` for the address, and the last tenth
    stays free for the coarse ones (which a limit under 1,000 may therefore exceed: never losing an attempt
    comes first).
    """

    def __init__(self, limit: int) -> None:
        self._exact_limit = limit * 8 // 10
        self._named_limit = limit * 9 // 10 - self._exact_limit
        self._exact: dict[MetricKey, Series] = {}
        self._named: dict[MetricKey, Series] = {}
        self._coarse: dict[MetricKey, Series] = {}

    def find(self, key: MetricKey) -> Series:
        """Return the series to count under."""
        series = self._exact.get(key)
        if series is not None:
            return series
        if len(self._exact) < self._exact_limit:
            return self._exact.setdefault(key, Series(key, overflowed=False))
        return self._find_named(key)

    def find_tallied(self, key: MetricKey, detail: Detail) -> Series:
        """Return the series to count attempts under that are known in so much detail."""
        match detail:
            case Detail.WHOLE:
                return self.find(key)
            case Detail.WITHOUT_PEER:
                return self._find_named(key)
            case Detail.WITHOUT_PROCESS:
                return self._find_coarse(key)

    def _find_named(self, key: MetricKey) -> Series:
        named = key._replace(address=OTHER)
        series = self._named.get(named)
        if series is not None:
            return series
        if len(self._named) < self._named_limit:
            return self._named.setdefault(named, Series(named, overflowed=True))
        return self._find_coarse(key)

    def _find_coarse(self, key: MetricKey) -> Series:
        coarse = key._replace(address=OTHER, executable_name=OTHER, port=None)
        return self._coarse.get(coarse) or self._coarse.setdefault(coarse, Series(coarse, overflowed=True))

    def __iter__(self) -> Iterator[Series]:
        return chain(self._exact.values(), self._named.values(), self._coarse.values())

    def clear(self) -> None:
        """Forget all series: after a collection with delta temporality the SDK has forgotten them too."""
        self._exact.clear()
        self._named.clear()
        self._coarse.clear()
