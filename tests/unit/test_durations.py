"""Our histogram against the SDK's, which takes one value at a time."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    Aggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)

from otel_connect.encode.durations import (
    DURATION_BOUNDARIES,
    Durations,
    ExplicitDurations,
    ExponentialDurations,
    Sample,
    bucket_index,
)
from otel_connect.encode.spans import SpanContext
from tests.support.syn_schedule import schedule

seconds = st.one_of(st.floats(1e-6, 1e3), st.just(0.0), st.sampled_from([*DURATION_BOUNDARIES, 0.25, 1.0, 2.0, 1024.0]))


def sdk_point(aggregation: Aggregation, values: Sequence[float]) -> Any:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], views=[View(instrument_name="d", aggregation=aggregation)])
    histogram = provider.get_meter("test").create_histogram("d")
    for value in values:
        histogram.record(value)
    data = reader.get_metrics_data()
    provider.shutdown()
    assert data is not None
    return data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points[0]


def point(durations: Durations) -> Any:
    kind = HistogramDataPoint if isinstance(durations, ExplicitDurations) else ExponentialHistogramDataPoint
    return kind.FromString(durations.encoded())


def filled(durations: Durations, values: Sequence[float]) -> Any:
    for value in values:
        durations.add(value)
    return point(durations)


def _without_last_zeros(counts: Sequence[int]) -> list[int]:
    used = max(index for index, count in enumerate(counts) if count) + 1
    return list(counts[:used])


@given(st.lists(seconds, min_size=1, max_size=60))
def test_explicit_buckets_are_those_of_the_sdk(values: list[float]) -> None:
    theirs = sdk_point(ExplicitBucketHistogramAggregation(DURATION_BOUNDARIES), values)
    ours = filled(ExplicitDurations(), values)
    assert (ours.count, list(ours.bucket_counts)) == (theirs.count, list(theirs.bucket_counts))
    assert (ours.sum, ours.min, ours.max) == (pytest.approx(theirs.sum), theirs.min, theirs.max)
    assert tuple(ours.explicit_bounds) == tuple(theirs.explicit_bounds)


@given(st.lists(seconds, min_size=1, max_size=60))
def test_exponential_buckets_are_those_of_the_sdk(values: list[float]) -> None:
    theirs = sdk_point(ExponentialBucketHistogramAggregation(), values)
    ours = filled(ExponentialDurations(), values)
    assert (ours.count, ours.zero_count) == (theirs.count, theirs.zero_count)
    assert (ours.sum, ours.min, ours.max) == (pytest.approx(theirs.sum), theirs.min, theirs.max)
    assert sum(ours.positive.bucket_counts) == theirs.count - theirs.zero_count
    assert len(ours.positive.bucket_counts) <= 160
    if any(values):
        assert ours.scale == theirs.scale
        assert ours.positive.offset == theirs.positive.offset
        assert list(ours.positive.bucket_counts) == _without_last_zeros(theirs.positive.bucket_counts)


@given(st.floats(1e-9, 1e9), st.integers(-8, 20))
def test_a_value_lies_in_its_bucket(value: float, scale: int) -> None:
    index = bucket_index(value, scale)
    assert 2.0 ** (index * 2.0**-scale) <= value * (1 + 1e-9)
    assert value <= 2.0 ** ((index + 1) * 2.0**-scale) * (1 + 1e-9)


@pytest.mark.parametrize("new", [ExplicitDurations, ExponentialDurations])
@given(st.lists(st.tuples(seconds, st.integers(1, 1000)), min_size=1, max_size=20))
def test_many_at_once_are_as_many_one_by_one(new: Callable[[], Durations], weighted: list[tuple[float, int]]) -> None:
    at_once, one_by_one = new(), new()
    for value, attempts in weighted:
        at_once.add(value, attempts)
        for _ in range(attempts):
            one_by_one.add(value)
    expected, found = point(one_by_one), point(at_once)
    assert found.sum == pytest.approx(expected.sum)
    found.sum = expected.sum
    assert found == expected


@given(st.lists(st.tuples(seconds, st.booleans()), min_size=1, max_size=20))
def test_joined_bytes_are_what_protobuf_writes(values: list[tuple[float, bool]]) -> None:
    durations = ExplicitDurations()
    for number, (value, with_span) in enumerate(values, start=1):
        context = SpanContext(bytes([number] * 16), bytes([number] * 8))
        durations.add(value, number, Sample(value, context, number) if with_span else None)
    encoded = durations.encoded()
    read = HistogramDataPoint.FromString(encoded)
    assert read.SerializeToString() == encoded
    assert len(read.exemplars) == len({bisect_left(DURATION_BOUNDARIES, value) for value, chosen in values if chosen})


@pytest.mark.parametrize("new", [ExplicitDurations, ExponentialDurations])
def test_exemplars_are_the_last_of_each_bucket_and_new_each_time(new: Callable[[], Durations]) -> None:
    contexts = [SpanContext(bytes([number + 1] * 16), bytes([number + 1] * 8)) for number in range(3)]
    durations = new()
    for value, context in zip((0.2, 0.21, 3.0), contexts, strict=True):
        durations.add(value, 1, Sample(value, context, 5))
    assert list(point(durations).exemplars) == [
        Exemplar(time_unix_nano=5, as_double=value, trace_id=context.trace_id, span_id=context.span_id)
        for value, context in zip((0.21, 3.0), contexts[1:], strict=True)
    ]
    assert not point(durations).exemplars


ANSWERED_WITHIN_S = 0.5


@pytest.mark.parametrize("linear", [0, 4], ids=["before Linux 6.5", "since Linux 6.5"])
def test_answers_to_different_syns_are_in_different_buckets(linear: int) -> None:
    buckets: list[set[int]] = []
    for retry in schedule(linear).retries:
        answered = (retry.due + 1e-6, retry.latest, retry.latest + ANSWERED_WITHIN_S)
        buckets.append({bisect_left(DURATION_BOUNDARIES, seconds) for seconds in answered})
    buckets.append({bisect_left(DURATION_BOUNDARIES, seconds) for seconds in (1e-6, 0.5, 1.0)})
    assert sum(map(len, buckets)) == len(set[int]().union(*buckets))


@pytest.mark.parametrize("linear", [0, 4], ids=["before Linux 6.5", "since Linux 6.5"])
def test_the_kernels_own_timeout_has_a_bucket_with_an_upper_end(linear: int) -> None:
    timeout = schedule(linear).timeout
    retry = schedule(linear).retries[-1]
    buckets = {bisect_left(DURATION_BOUNDARIES, seconds) for seconds in (timeout.due + 1e-6, timeout.latest * 1.05)}
    assert len(buckets) == 1
    assert buckets < set(range(len(DURATION_BOUNDARIES))), "it is not above the last boundary"
    assert buckets.isdisjoint({bisect_left(DURATION_BOUNDARIES, retry.latest + ANSWERED_WITHIN_S)})
