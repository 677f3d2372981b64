"""The histogram of durations: like the SDK's, but it takes many attempts at once, and a fraction of the time.

The kernel tallies attempts that have no record of their own: so many, and so long together. The SDK records
one value at a time. Here a value has a weight, and count and sum stay exact. What is written is OTLP's data
point; temporality and attribute sets are the caller's business.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from struct import Struct
from typing import NamedTuple

from opentelemetry.proto.metrics.v1.metrics_pb2 import ExponentialHistogramDataPoint

from otel_connect.encode.spans import SpanContext
from otel_connect.encode.wire import message, varint

# Seconds. From 1 on they are when a SYN is due again: the timer is never early, so an answer to that SYN lies above.
# Before Linux 6.5 that is at 1, 3, 7, 15, 31 and 63, and the timeout at 127; since then at 1, 2, 3, 4, 5, 7, 11, 19, 35
# and 67, and the timeout at 131. The last boundary is above both timeouts, late as their timers may be.
DURATION_BOUNDARIES = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 11.0, 15.0, 31.0, 63.0, 127.0, 150.0),
)

_MAX_BUCKETS = 160  # the specification's defaults for exponential histograms
_MAX_SCALE = 20

# Tags of data points and exemplars (opentelemetry/proto/metrics/v1/metrics.proto), some with what always follows them:
# the lengths of counts, exemplars and ids, and the bounds of the buckets.
_BUCKETS = len(DURATION_BOUNDARIES) + 1
_COUNT, _SUM, _BUCKET_COUNTS = b"\x21", b"\x29", b"\x32" + varint(8 * _BUCKETS)
_BOUNDS = message(b"\x3a", Struct(f"<{_BUCKETS - 1}d").pack(*DURATION_BOUNDARIES))
_MIN, _MAX = b"\x59", b"\x61"
_counted = Struct(f"<cQcd3s{_BUCKETS}Q").pack
_extremes = Struct("<cdcd").pack
_EXEMPLARS, _EXEMPLARS_OF_EXPONENTIAL = b"\x42\x2e", b"\x5a\x2e"
_TIME, _AS_DOUBLE, _SPAN_ID, _TRACE_ID = b"\x11", b"\x19", b"\x22\x08", b"\x2a\x10"
_exemplar = Struct("<2scQcd2s8s2s16s").pack


class Sample(NamedTuple):
    """An attempt with a span, to find it by from the histogram."""

    seconds: float
    context: SpanContext
    unix_ns: int


class Durations(ABC):
    """The durations of one attribute set; there may be thousands of these."""

    __slots__ = ("_least", "_most", "_samples", "_seconds")

    def __init__(self) -> None:
        self._seconds = 0.0
        self._least = math.inf
        self._most = -math.inf
        self._samples: dict[int, Sample] = {}

    @abstractmethod
    def add(self, seconds: float, attempts: int = 1, sample: Sample | None = None) -> None:
        """Count attempts that took so long each; several of them at their mean."""

    @abstractmethod
    def encoded(self) -> bytes:
        """Serialize what was counted, a data point without attributes and times; the samples are new each time."""

    def _sum_up(self, seconds: float, attempts: int, sample: Sample | None) -> None:
        """Count what every histogram says besides its buckets."""
        self._seconds += seconds * attempts
        # For every attempt of the host: min() and max() take as long as all the rest.
        if seconds < self._least:  # noqa: PLR1730
            self._least = seconds
        if seconds > self._most:  # noqa: PLR1730
            self._most = seconds
        if sample is not None:
            self._samples[bisect_left(DURATION_BOUNDARIES, seconds)] = sample

    def _take_exemplars(self, tag: bytes) -> bytes:
        """Serialize the last attempt with a span of each explicit bucket since this was last asked."""
        samples, self._samples = self._samples, {}
        return b"".join(
            _exemplar(tag, _TIME, unix_ns, _AS_DOUBLE, seconds, _SPAN_ID, context.span_id, _TRACE_ID, context.trace_id)
            for seconds, context, unix_ns in samples.values()
        )


class ExplicitDurations(Durations):
    """Counts by the boundaries of the contract."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        super().__init__()
        self._counts = [0] * _BUCKETS

    def add(self, seconds: float, attempts: int = 1, sample: Sample | None = None) -> None:
        """Count attempts that took so long each."""
        self._counts[bisect_left(DURATION_BOUNDARIES, seconds)] += attempts
        self._sum_up(seconds, attempts, sample)

    def encoded(self) -> bytes:
        """Serialize what was counted: what the protobuf library makes of it, in a fraction of the time."""
        counts = self._counts
        return b"".join(
            (
                _counted(_COUNT, sum(counts), _SUM, self._seconds, _BUCKET_COUNTS, *counts),
                _BOUNDS,
                self._take_exemplars(_EXEMPLARS),
                _extremes(_MIN, self._least, _MAX, self._most),
            )
        )


class ExponentialDurations(Durations):
    """Counts in buckets that grow by a factor of 2 to the power of 2^-scale, as fine as 160 of them allow."""

    __slots__ = ("_counts", "_high", "_low", "_scale", "_zeros")

    def __init__(self) -> None:
        super().__init__()
        self._scale = _MAX_SCALE
        self._zeros = 0
        self._counts: Counter[int] = Counter()
        self._low = self._high = 0

    def add(self, seconds: float, attempts: int = 1, sample: Sample | None = None) -> None:
        """Count attempts that took so long each."""
        if seconds > 0:
            index = bucket_index(seconds, self._scale)
            if not self._counts:
                self._low = self._high = index
            low, high = min(self._low, index), max(self._high, index)
            while high - low >= _MAX_BUCKETS:
                low, high, index = low >> 1, high >> 1, index >> 1
                self._halve()
            self._low, self._high = low, high
            self._counts[index] += attempts
        else:
            self._zeros += attempts
        self._sum_up(seconds, attempts, sample)

    def encoded(self) -> bytes:
        """Serialize what was counted."""
        point = ExponentialHistogramDataPoint(
            count=self._zeros + self._counts.total(),
            sum=self._seconds,
            scale=self._scale,
            zero_count=self._zeros,
            min=self._least,
            max=self._most,
        )
        if self._counts:
            point.positive.offset = self._low
            point.positive.bucket_counts.extend(self._counts[index] for index in range(self._low, self._high + 1))
        return point.SerializeToString() + self._take_exemplars(_EXEMPLARS_OF_EXPONENTIAL)

    def _halve(self) -> None:
        self._scale -= 1
        halved: Counter[int] = Counter()
        for index, attempts in self._counts.items():
            halved[index >> 1] += attempts
        self._counts = halved


def bucket_index(value: float, scale: int) -> int:
    """Return the index of the bucket (base^index, base^(index + 1)] that holds a positive value."""
    mantissa, exponent = math.frexp(value)  # value == mantissa * 2**exponent, 0.5 <= mantissa < 1
    power_of_two = mantissa == 0.5
    if scale <= 0:
        return exponent - 1 - power_of_two >> -scale
    if power_of_two:
        return (exponent - 1 << scale) - 1
    return math.ceil(math.log2(value) * (1 << scale)) - 1
