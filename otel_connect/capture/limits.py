"""The limits of the configuration, as the numbers that the probes count with. Pure."""

from otel_connect.config import CaptureConfig

_SECOND_NS = 1_000_000_000


def bucket_numbers(config: CaptureConfig) -> dict[str, int]:
    """Return the cost of a token and the size of a bucket, both in ns of refill; a cost of 0 means no limit."""
    return _numbers("PROCESS", config.process_rate, config.process_burst) | _numbers(
        "CGROUP", config.cgroup_rate, config.cgroup_burst
    )


def _numbers(whose: str, rate: int, burst: int) -> dict[str, int]:
    cost = _SECOND_NS // rate if rate else 0
    return {f"OTC_{whose}_COST_NS": cost, f"OTC_{whose}_BURST_NS": cost * burst}
