"""The ways in which a program has the kernel connect, and which of them the probes see being called."""

from enum import StrEnum

from otel_connect.capture.hooks import ProbeSet, Sight


class Entry(StrEnum):
    """An entry of the kernel; the name is that of the member in the client ``dial``."""

    CONNECT = "connect()"
    MPTCP = "MPTCP"
    SENDTO = "sendto(MSG_FASTOPEN)"
    DEFERRED = "TCP_FASTOPEN_CONNECT"
    RING = "io_uring"
    RING_ASYNC = "io_uring async"
    RING_SQPOLL = "io_uring SQPOLL"
    COMPAT = "32-bit"

    @property
    def program(self) -> str:
        """Return the word for it on the command line of ``dial``."""
        return _PROGRAM[self]


_PROGRAM = {
    Entry.CONNECT: "connect",
    Entry.MPTCP: "mptcp",
    Entry.SENDTO: "sendto",
    Entry.DEFERRED: "deferred",
    Entry.RING: "plain",
    Entry.RING_ASYNC: "async",
    Entry.RING_SQPOLL: "sqpoll",
    Entry.COMPAT: "connect32",
}

RINGS = (Entry.RING, Entry.RING_ASYNC, Entry.RING_SQPOLL)
WITH_CALL = tuple(entry for entry in Entry if entry not in RINGS)
"""Those in which a call of the program waits, and returns what became of the attempt."""


def call_unseen(entry: Entry, sight: Sight) -> str:
    """Say why the probes do not see the call, or the request, that makes an attempt; empty if they do."""
    if entry is Entry.SENDTO and not sight.sends:
        return "this set has no hook for sendto()"
    if sight.probes is ProbeSet.LITE:
        return "this set has no hook for calls"
    if sight.probes is ProbeSet.TYPED and entry is Entry.COMPAT:
        return "tracepoints of system calls leave 32-bit callers out"
    if sight.probes is ProbeSet.TYPED and entry in RINGS and not sight.rings:
        return "before Linux 6.10 the tracepoints of io_uring do not say enough"
    return ""
