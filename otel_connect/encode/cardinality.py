"""A bound on the attribute sets of the attempt metrics, of each workload and of all together. Pure.

The SDK has a bound of its own, but past it whole attribute sets collapse into one without a word. Here what
grows without end is given up bit by bit: first the server's address, then the executable's name together with
the port, at last the workload. What remains (outcome, error type, network type) has fewer than a hundred
values, so every attempt is counted somewhere and no total is ever wrong.
"""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from otel_connect.encode.attributes import (
    ERROR_TYPE,
    NETWORK_TYPE,
    OUTCOME,
    PROCESS_EXECUTABLE_NAME,
    SERVER_ADDRESS,
    SERVER_PORT,
    SERVICE_PEER_NAME,
    Attributes,
    error_type,
    network_type,
)
from otel_connect.encode.durations import Durations
from otel_connect.encode.resource import OTHER_WORKLOAD
from otel_connect.encode.wire import remembered_key_value
from otel_connect.model import Attempt, Detail, Outcome, Tallied, Verdict, Workload

OTHER = "_other"

_RESERVED = 100  # for the coarse sets of _other


class End(NamedTuple):
    """What became of an attempt and by which network, as far as the metrics tell; ``None``: has no such attribute."""

    outcome: Outcome
    error_type: str | None
    network_type: str | None


class MetricKey(NamedTuple):
    """What the metrics tell attempts apart by; ``None`` where an attempt has no such attribute."""

    workload: Workload
    end: End
    executable_name: str
    address: str | None
    port: int | None
    service_peer_name: str | None


def metric_key(of: Attempt | Tallied) -> MetricKey:
    """Return the exact key of an attempt or a tally, with ``_other`` for what a tally does not tell apart."""
    event, named = of.event, of.named
    address, port = event.target
    end = _end(of.verdict, event.family)
    if named is None:
        return MetricKey(OTHER_WORKLOAD, end, event.comm or OTHER, address, port, None)
    if named.server is not None:
        address, port = named.server.name, named.server.port_beside(port)
    # One for every attempt: the class's own constructor takes twice as long.
    return tuple.__new__(
        MetricKey, (named.workload, end, named.process.executable_name, address, port, named.service_peer_name)
    )


@lru_cache(512)
def _end(verdict: Verdict, family: int) -> End:
    return End(verdict.outcome, error_type(verdict), network_type(family))


def metric_attributes(key: MetricKey) -> Attributes:
    """Return the attributes of a set: all that its key says, but for the workload."""
    attributes = {
        OUTCOME: key.end.outcome.value,
        ERROR_TYPE: key.end.error_type,
        NETWORK_TYPE: key.end.network_type,
        PROCESS_EXECUTABLE_NAME: key.executable_name,
        SERVER_ADDRESS: key.address,
        SERVER_PORT: key.port,
        SERVICE_PEER_NAME: key.service_peer_name,
    }
    return tuple((name, value) for name, value in attributes.items() if value is not None)


class Limits(NamedTuple):
    """How many attribute sets there may be."""

    sets_of_workload: int = 1000
    sets: int = 10_000
    """Of all workloads together."""
    workloads: int = 1000
    """Besides ``_other``."""


class Moment(NamedTuple):
    """A time on both clocks: that of the wall, which may be set, and the one that only goes forward; ns."""

    unix_ns: int
    monotonic_ns: int


class Series:
    """One attribute set of a workload, how many attempts it has had since it began, and how long they took."""

    __slots__ = ("began", "changed_ns", "count", "durations", "fragments", "overflowed", "reported", "workload")

    def __init__(self, key: MetricKey, began: Moment, *, overflowed: bool) -> None:
        self.workload = key.workload
        self.fragments = [remembered_key_value(name, value) for name, value in metric_attributes(key)]
        """Its attributes, encoded (see ``wire``)."""
        self.count = 0
        self.durations: Durations | None = None
        """``None`` before the first attempt with an end."""
        self.began = began
        self.reported = 0
        """What the count was at the last collection."""
        self.changed_ns = 0
        """When a collection last found it changed (monotonic)."""
        self.overflowed = overflowed
        """Whether some attributes had to be given up."""


class AttributeSets:
    """Finds the series of a key, and keeps no more of them than the limits say.

    Of the sets of a workload, and of all together, eight tenths are exact, one tenth has ``_other`` for the
    address, and the last tenth is for the coarse ones, fewer than a hundred for a workload. Those of ``_other``
    always find room (limits under 1,000 may therefore be exceeded): never losing an attempt comes first.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._exact: dict[MetricKey, Series] = {}
        self._named: dict[MetricKey, Series] = {}
        self._coarse: dict[MetricKey, Series] = {}
        self._sizes: Counter[Workload] = Counter()

    def find(self, key: MetricKey, now: Moment) -> Series:
        """Return the series to count under; a new one begins now."""
        series = self._exact.get(key)
        if series is not None:
            return series
        if self._has_room(key.workload, 8):
            return self._add(self._exact, key, now, overflowed=False)
        return self._find_named(key, now)

    def find_tallied(self, key: MetricKey, now: Moment, detail: Detail) -> Series:
        """Return the series to count attempts under that are known in so much detail."""
        match detail:
            case Detail.WHOLE:
                return self.find(key, now)
            case Detail.WITHOUT_PEER:
                return self._find_named(key, now)
            case Detail.WITHOUT_PROCESS:
                named = key.executable_name != OTHER
                return self._find_named(key, now) if named else self._find_coarse(key, now)

    def _find_named(self, key: MetricKey, now: Moment) -> Series:
        named = key._replace(address=OTHER)
        series = self._named.get(named)
        if series is not None:
            return series
        if self._has_room(key.workload, 9):
            return self._add(self._named, named, now, overflowed=True)
        return self._find_coarse(key, now)

    def _find_coarse(self, key: MetricKey, now: Moment) -> Series:
        coarse = MetricKey(key.workload, key.end, OTHER, OTHER, None, None)
        series = self._coarse.get(coarse)
        if series is not None:
            return series
        if not self._has_room(key.workload, 10, coarse=True):
            coarse = coarse._replace(workload=OTHER_WORKLOAD)
        return self._coarse.get(coarse) or self._add(self._coarse, coarse, now, overflowed=True)

    def _has_room(self, workload: Workload, tenths: int, *, coarse: bool = False) -> bool:
        limits, size = self._limits, self._sizes.get(workload, 0)
        of_all = len(self) < (limits.sets - _RESERVED) * tenths // 10
        of_workload = coarse or size < limits.sets_of_workload * tenths // 10
        return of_all and of_workload and (size > 0 or len(self._sizes) < limits.workloads)

    def _add(self, tier: dict[MetricKey, Series], key: MetricKey, now: Moment, *, overflowed: bool) -> Series:
        self._sizes[key.workload] += 1
        series = tier[key] = Series(key, now, overflowed=overflowed)
        return series

    def by_workload(self) -> dict[Workload, list[Series]]:
        """Return all series of each workload."""
        groups: dict[Workload, list[Series]] = {}
        for series in self:
            groups.setdefault(series.workload, []).append(series)
        return groups

    def forget_before(self, monotonic_ns: int) -> None:
        """Forget the series that have not changed since; one that comes back begins anew."""
        for tier in (self._exact, self._named, self._coarse):
            for key in [key for key, series in tier.items() if series.changed_ns < monotonic_ns]:
                del tier[key]
                self._sizes[key.workload] -= 1
                if not self._sizes[key.workload]:
                    del self._sizes[key.workload]

    def __len__(self) -> int:
        return len(self._exact) + len(self._named) + len(self._coarse)

    def __iter__(self) -> Iterator[Series]:
        return chain(self._exact.values(), self._named.values(), self._coarse.values())

    def clear(self) -> None:
        """Forget all series: with delta temporality each collection begins anew."""
        self._exact.clear()
        self._named.clear()
        self._coarse.clear()
        self._sizes.clear()
