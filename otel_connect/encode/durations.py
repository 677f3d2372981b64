"""The histogram of durations: like the SDK's, but it takes many attempts at once, and a third of the time.

The kernel tallies attempts that have no record of their own: so many, and so long together. The SDK records
one value at a time. Here a value has a weight, and count and sum stay exact. What is written is OTLP's data
point; temporality and attribute sets are the caller's business.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint

from otel_connect.encode.spans import SpanContext

# Seconds; the retries of a SYN fall at 1, 3, 7, 15, 31, 63 and 127 s, each just below a boundary.
DURATION_BOUNDARIES = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.1, 3.3, 7.5, 15.5, 32.0, 64.0, 130.0),
)

_MAX_BUCKETS = 160  # the specification's defaults for exponential histograms
_MAX_SCALE = 20


class Sample(NamedTuple):
    """An attempt with a span, to find it by from the histogram."""

    seconds: float
    context: SpanContext
    unix_ns: int


class Durations(Protocol):
    """The durations of one attribute set."""

    def add(self, seconds: float, attempts: int = 1, sample: Sample | None = None) -> None:
        """Count attempts that took so long each; several of them at their mean."""

    def point(self) -> HistogramDataPoint | ExponentialHistogramDataPoint:
        """Return what was counted as a data point without attributes and times; the samples are new each time."""

    def encoded(self) -> bytes:
        """Return the same serialized."""


class ExplicitDurations:
    """Counts by the boundaries of the contract."""

    def __init__(self) -> None:
        self._counts = [0] * (len(DURATION_BOUNDARIES) + 1)
        self._totals = _Totals()

    def add(self, seconds: float, attempts: int = 1, sample: Sample | None = None) -> None:
        """Count attempts that took so long each."""
        self._counts[bisect_left(DURATION_BOUNDARIES, seconds)] += attempts
        self._totals.add(seconds, attempts, sample)

    def point(self) -> HistogramDataPoint:
        """Return what was counted."""
        totals = self._totals
        return HistogramDataPoint(
            count=totals.attempts,
            sum=totals.seconds,
            bucket_counts=self._counts,
            explicit_bounds=DURATION_BOUNDARIES,
            min=totals.least,
            max=totals.most,
            exemplars=totals.take_exemplars(),
        )

    def encoded(self) -> bytes:
        """Return the same serialized."""
        return self.point().SerializeToString()


class ExponentialDurations:
    """Counts in buckets that grow by a factor of 2 to the power of 2^-scale, as fine as 160 of them allow."""

    def __init__(self) -> None:
        self._scale = _MAX_SCALE
        self._zeros = 0
        self._counts: Counter[int] = Counter()
        self._low = self._high = 0
        self._totals = _Totals()

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
        self._totals.add(seconds, attempts, sample)

    def point(self) -> ExponentialHistogramDataPoint:
        """Return what was counted."""
        totals = self._totals
        point = ExponentialHistogramDataPoint(
            count=totals.attempts,
            sum=totals.seconds,
            scale=self._scale,
            zero_count=self._zeros,
            min=totals.least,
            max=totals.most,
            exemplars=totals.take_exemplars(),
        )
        if self._counts:
            point.positive.offset = self._low
            point.positive.bucket_counts.extend(self._counts[index] for index in range(self._low, self._high + 1))
        return point

    def encoded(self) -> bytes:
        """Return the same serialized."""
        return self.point().SerializeToString()

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


class _Totals:
    """What every histogram says besides its buckets."""

    def __init__(self) -> None:
        self.attempts = 0
        self.seconds = 0.0
        self.least = math.inf
        self.most = -math.inf
        self._samples: dict[int, Sample] = {}

    def add(self, seconds: float, attempts: int, sample: Sample | None) -> None:
        self.attempts += attempts
        self.seconds += seconds * attempts
        self.least = min(self.least, seconds)
        self.most = max(self.most, seconds)
        if sample is not None:
            self._samples[bisect_left(DURATION_BOUNDARIES, seconds)] = sample

    def take_exemplars(self) -> Sequence[Exemplar]:
        """Return the last attempt with a span of each explicit bucket since this was last asked."""
        samples, self._samples = self._samples, {}
        return [
            Exemplar(
                time_unix_nano=sample.unix_ns,
                as_double=sample.seconds,
                trace_id=sample.context.trace_id,
                span_id=sample.context.span_id,
            )
            for sample in samples.values()
        ]
