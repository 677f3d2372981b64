"""Which attempts get a record when many are alike: the first, every n-th, and what is left at the end. Pure.

Alike are attempts of one process to one peer with one outcome. A group of them begins with the first, which
is sent, and lasts for a window of time. Of those that follow, each n-th is sent and carries how many it stands
for, itself included; when the window is over, the last one is sent for those that are left. So every attempt is
stood for by exactly one record.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple, TypeAlias

from otel_connect.config import EncodeConfig
from otel_connect.model import Attempt, Verdict

_Key: TypeAlias = tuple[int, int, int, str | None, int | None, Verdict, bool]


class Selected(NamedTuple):
    """What becomes of a batch."""

    sent: list[Attempt]
    """In the order they came; ``repeat_count`` says for how many each stands."""
    unsent: list[Attempt]
    """Those that another record stands for, or will."""


class _Group:
    """Attempts that are alike."""

    __slots__ = ("ends", "last", "waiting")

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.waiting = 0
        self.last: Attempt | None = None


class Repeats:
    """Remembers the groups whose window is open; a bounded number of them, beyond which the oldest ends early."""

    def __init__(self, config: EncodeConfig, remembered: int = 16_384) -> None:
        self._every = config.collapse_repeats
        self._window_s = config.collapse_window_ms / 1000
        self._remembered = remembered
        self._groups: OrderedDict[_Key, _Group] = OrderedDict()

    def select(self, attempts: Sequence[Attempt], now: float) -> Selected:
        """Choose from a batch; ``now`` are seconds on a clock that only goes forward.

        What is still waiting when its window ends is returned by ``ended``, which must be called first.
        """
        if not self._every:
            return Selected(list(attempts), [])
        selected = Selected([], [])
        for attempt in attempts:
            key = _key(attempt)
            group = self._groups.get(key)
            if group is None:
                self._groups[key] = _Group(now + self._window_s)
                selected.sent.append(attempt)
                continue
            group.waiting += 1
            if group.waiting == self._every:
                selected.sent.append(attempt._replace(repeat_count=group.waiting))
                group.waiting, group.last = 0, None
            else:
                selected.unsent.append(attempt)
                group.last = attempt
        return selected

    def over(self, now: float) -> bool:
        """Whether the window of a group is over."""
        return any(now >= group.ends for group in islice(self._groups.values(), 1))

    def ended(self, now: float | None) -> list[Attempt]:
        """Close the windows that are over, all of them with ``None``; return the records for what waited there."""
        left = []
        while self._groups:
            oldest = next(iter(self._groups.values()))
            if now is not None and now < oldest.ends and len(self._groups) <= self._remembered:
                break
            self._groups.popitem(last=False)
            if oldest.last is not None:
                left.append(oldest.last._replace(repeat_count=oldest.waiting))
        return left


def _key(attempt: Attempt) -> _Key:
    event = attempt.event
    return (
        event.pid,
        event.process_start_boot_ns,
        event.family,
        *event.target,
        attempt.verdict,
        attempt.superseded,
    )
