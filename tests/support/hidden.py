"""Moments of attempts that this machine hides from BPF programs, as the kernel's own event log has them.

Some hosts keep programs away from their supervisor, process 1: a softirq that interrupts one of its threads
runs no program, whatever that is attached to, and no counter of missed runs moves. An attempt that ends there
ends unseen, and a SYN that is sent again there is dropped unseen. It cannot be avoided, but it can be told apart
from a fault: the kernel's event log sees it (``reruns`` acts on that).
"""

import os
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Self

from otel_connect.capture.preflight import TRACEFS

_EVENTS = {
    "sock/inet_sock_set_state": "(oldstate == 2 || oldstate == 3)",  # from SYN_SENT or SYN_RECV
    "tcp/tcp_retransmit_skb": "state == 2",  # in SYN_SENT
}
_PEER = re.compile(r" inet_sock_set_state: .* dport=(\d+) .* daddr=([\d.]+) .* daddrv6=([\da-f:.]+) ")


class HiddenEnds:
    """Counts what happens to attempts in the context of process 1, in a tracing instance of its own."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        """Begin to count, where that is permitted."""
        self._remove_stale()
        threads = " || ".join(f"common_pid == {thread.name}" for thread in Path("/proc/1/task").iterdir())
        for mount in TRACEFS:
            with suppress(OSError):
                folder = mount / f"instances/hidden-{os.getpid()}"
                folder.mkdir()
                self._folder = folder
                (folder / "buffer_size_kb").write_text("256")
                for event, states in _EVENTS.items():
                    (folder / "events" / event / "filter").write_text(f"{states} && ({threads})")
                    (folder / "events" / event / "enable").write_text("1")
                break
        return self

    def __exit__(self, *_: object) -> None:
        """Stop counting, and remove the instance."""
        if self._folder is not None:
            with suppress(OSError):
                (self._folder / "events/enable").write_text("0")
            self._folder.rmdir()

    @property
    def count(self) -> int:
        """How many there have been; 0 where they cannot be counted."""
        if self._folder is None:
            return 0
        trace = (self._folder / "trace").read_text(errors="replace")
        return sum(trace.count(f" {event.rpartition('/')[2]}: ") for event in _EVENTS)

    @property
    def peers(self) -> Counter[tuple[str, int]]:
        """How many attempts to each peer had such an end, by address and port; a v4-mapped address is dotted."""
        if self._folder is None:
            return Counter()
        found = _PEER.findall((self._folder / "trace").read_text(errors="replace"))
        return Counter((address if six.startswith("::ffff:") else six, int(port)) for port, address, six in found)

    @staticmethod
    def _remove_stale() -> None:
        """Remove the instances of runs that were killed."""
        for folder in (one for mount in TRACEFS for one in mount.glob("instances/hidden-*")):
            if not Path("/proc", folder.name.rpartition("-")[2]).exists():
                with suppress(OSError):
                    (folder / "events/enable").write_text("0")
                    folder.rmdir()
