"""When Linux sends a SYN again, and when it gives up: tcp_retransmit_timer() and the timer wheel, by their sources."""

from itertools import accumulate
from typing import NamedTuple

_SYN_RETRIES = 6  # net.ipv4.tcp_syn_retries
_TICKS = (100, 250, 300, 1000)  # CONFIG_HZ
_WHEEL = 64  # slots of a level of the timer wheel; a slot of the next level is eight times as long
_STEP = 8


class Moment(NamedTuple):
    """A time since the first SYN, s: a timer never fires early, and may fire late."""

    due: float
    latest: float


class Schedule(NamedTuple):
    """When each further SYN is sent, and when the attempt has timed out."""

    retries: tuple[Moment, ...]
    timeout: Moment


def schedule(linear: int, retries: int = _SYN_RETRIES) -> Schedule:
    """Derive the schedule for net.ipv4.tcp_syn_linear_timeouts: 0 is how it was before Linux 6.5, 4 the default since.

    So many timeouts of 1 s come on top of the retries, and only after them each is twice as long as the one before.
    """
    delays = [1] * (linear + 1) + [2**n for n in range(1, retries + 1)]
    latest = zip(*(accumulate(delay + _late(delay, hz) for delay in delays) for hz in _TICKS), strict=True)
    moments = [Moment(due, max(times)) for due, times in zip(accumulate(delays), latest, strict=True)]
    return Schedule(tuple(moments[:-1]), moments[-1])


def _late(delay_s: int, hz: int) -> float:
    """Return by how much a timer of kernel/time/timer.c may be late: a slot of its level, and a tick."""
    ticks, slot = delay_s * hz, 1
    while ticks >= (_WHEEL - 1) * slot:
        slot *= _STEP
    return (slot + 1) / hz
