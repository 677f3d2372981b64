"""The ways into the kernel by which a program connects, and what the probes say of each where they see it.

Each runs against each of ``WAYS``, by a client that prints the errno that the kernel returned.
"""

import errno
import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

from otel_connect.capture.hooks import ProbeSet, Sight
from tests.support.bench import Bench, Family, Target
from tests.support.peer import Answer, Behaviour

PASS, NOT_VISIBLE, NOT_APPLICABLE = "pass", "not visible: ", "n/a: "

ENTRIES = {
    "MPTCP": ("calls", "mptcp"),
    "sendto(MSG_FASTOPEN)": ("calls", "sendto"),
    "TCP_FASTOPEN_CONNECT": ("calls", "deferred"),
    "io_uring": ("ring", "plain"),
    "io_uring async": ("ring", "async"),
    "io_uring SQPOLL": ("ring", "sqpoll"),
    "32-bit": ("calls", "connect32"),
    "32-bit socketcall": ("calls", "socketcall32"),
}
"""The program and the word for it, by the name of the entry."""


class Way(NamedTuple):
    """One way in which an attempt ends."""

    target: Callable[[Bench, Family], Target]
    returned: int
    outcome: str
    syn: bool = False


def _route(kind: str, number: int, outcome: str) -> Way:
    return Way(lambda bench, family: bench.error_route(family, kind), number, outcome)


WAYS = {
    "accepted here": Way(Bench.listener, 0, "established", syn=True),
    "refused there": Way(
        lambda bench, family: bench.scripted(family, Behaviour(Answer.REFUSE, 0.02)),
        errno.ECONNREFUSED,
        "refused",
        syn=True,
    ),
    "prohibit route": _route("prohibit", errno.EACCES, "denied"),
    "unreachable route": _route("unreachable", errno.EHOSTUNREACH, "local_error"),
    "blackhole route": _route("blackhole", errno.EINVAL, "local_error"),
    "none route": _route("none", errno.ENETUNREACH, "local_error"),
}


class Call(NamedTuple):
    """One attempt that was made."""

    entry: str
    case: str
    family: Family
    target: Target
    pid: int
    absent: str
    """Why the kernel did not even try; empty if it did."""

    @property
    def cell(self) -> str:
        """Name it as the page of conformance does."""
        return f"{self.case}|blocking|{self.family.value}|{self.entry}"

    @property
    def way(self) -> Way:
        """What becomes of it."""
        return WAYS[self.case]


def make_all(bench: Bench, programs: str) -> Iterator[Call]:
    """Make an attempt of every kind; raises AssertionError where the kernel returns something else."""
    for entry, (program, word) in ENTRIES.items():
        for case, way in WAYS.items():
            for family in Family:
                target = way.target(bench, family)
                argv = [f"{programs}/{program}", word, target.host, str(target.port)]
                with bench.namespace.popen(argv) as client:
                    told, _ = client.communicate(timeout=120)
                absent = client.returncode in {2, -signal.SIGSEGV} or told.strip() == str(-errno.ENOSYS)
                assert absent or told.strip() == str(-way.returned), f"{case} by {entry}, {family.value}: {told}"
                yield Call(entry, case, family, target, client.pid, "this kernel has none" if absent else "")


def unseen(call: Call, sight: Sight) -> str:
    """Say why the probes do not see the attempt; empty if they do."""
    if call.way.syn or (sight.probes is ProbeSet.FEXIT and call.entry != "sendto(MSG_FASTOPEN)") or sight.sends:
        return ""
    if call.entry.startswith("sendto"):
        return "this kernel has no function of its own for it"
    if call.entry.startswith("32-bit"):
        return "tracepoints of system calls leave 32-bit callers out"
    if call.entry.startswith("io_uring") and not sight.rings:
        return "before Linux 6.10 the tracepoints of io_uring do not say enough"
    return ""
