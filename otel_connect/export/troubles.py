"""What signals have met on their way: a trouble of a whole server is said once, and so is its end."""

import threading
from typing import NamedTuple


class _Met(NamedTuple):
    where: str
    what: str


class Troubles:
    """For the threads of all senders."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._met: dict[str, _Met] = {}

    def meet(self, signal: str, where: str, what: str) -> bool:
        """Note what a signal has met, and where; whether no other signal is in the same."""
        met = _Met(where, what)
        with self._lock:
            new = all(one != met for name, one in self._met.items() if name != signal)
            self._met[signal] = met
            return new

    def leave(self, signal: str) -> tuple[str, bool]:
        """Note that a signal is out of it; where that was, and whether it was there, and no other signal is left."""
        with self._lock:
            if (met := self._met.pop(signal, None)) is None:
                return "", False
            return met.where, all(one.where != met.where for one in self._met.values())
