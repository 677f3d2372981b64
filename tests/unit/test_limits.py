"""The limits of the configuration as the probes count with them: nanoseconds of refill."""

from otel_connect.capture.limits import bucket_numbers
from otel_connect.config import CaptureConfig


def test_a_token_costs_the_time_of_its_refill_and_a_bucket_holds_a_burst_of_them() -> None:
    config = CaptureConfig(process_rate=2000, process_burst=300, cgroup_rate=7, cgroup_burst=4)
    assert bucket_numbers(config) == {
        "OTC_PROCESS_COST_NS": 500_000,
        "OTC_PROCESS_BURST_NS": 150_000_000,
        "OTC_CGROUP_COST_NS": 142_857_142,
        "OTC_CGROUP_BURST_NS": 571_428_568,
    }


def test_a_rate_of_zero_is_no_limit() -> None:
    numbers = bucket_numbers(CaptureConfig(process_rate=0, cgroup_rate=0))
    assert set(numbers.values()) == {0}
