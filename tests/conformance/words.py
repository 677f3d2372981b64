"""The words of docs/conformance.md."""

from typing import NamedTuple

BEFORE = """\
# Conformance

What the agent records of a connect attempt, compared with how that attempt was made. Each case below is a real attempt
of a real program. Its end is known beforehand, the program reports it, and the other side counts the SYNs. Outcome,
errno, addresses, ports, retransmits, duration and whether the socket blocks all have to be right.

* **pass**: the record is right.
* **not visible**: this [set of probes](operations.md#sets-of-probes) cannot see it. There is no record, or one that
  says less; the number leads to the [reason](#why).
* **n/a**: there is no such attempt ([why](#not-applicable)), or this kernel lacks what it takes (the number says what).

A place that says only `pass` stands for IPv4, IPv6 and IPv4 by an IPv6 socket, for blocking and non-blocking sockets,
and for every kernel and set of this list; the column *made* says where a case has fewer.

`make conformance` makes every case on the machine that it runs on, with each set of probes that its kernel allows, and
writes this page. The tests make the same cases: one fails where the page says something else. The columns of
other kernels come from emulated machines ([decision 70](decisions/0070-conformance.md)).
"""

FIRST = """\
## In numbers
"""


class Group(NamedTuple):
    """One table: the first and the last of its cases, and what is said before it."""

    title: str
    first: str
    last: str
    about: str


GROUPS = (
    Group(
        "The other side decides",
        "accepted here",
        "TCP_USER_TIMEOUT",
        "*Here* is a port of the same host, *there* a peer 20 ms away. *Reset* comes after a SYN of the peer's own.",
    ),
    Group(
        "Routers, neighbours, firewalls",
        "no neighbour",
        "firewall rejects",
        "*ICMP* is an error message that comes after the call, *router* one that comes while the call still holds the"
        " socket; the kernel then puts it aside. The firewall is that of the host itself.",
    ),
    Group(
        "Failures before a SYN",
        "prohibit route",
        "cgroup program",
        "Nothing is sent, so that only the call shows these. No port is left where the only one that may be used is"
        " connected to the same peer already.",
    ),
    Group(
        "The program gives up, or is interrupted",
        "given up by close",
        "closed by another thread",
        "The peer is silent, or answers later than the program waits. *Time limit* is the linked time-out of io_uring,"
        " after which the program gives up in the way named.",
    ),
    Group(
        "Calls, threads, processes",
        "connect() twice",
        "TCP_REPAIR",
        "As many records as attempts, however many calls and threads there are, and the right process. *No attempt* is"
        " connect() of UDP, of a Unix socket, and to AF_UNSPEC.",
    ),
    Group(
        "A socket with a history",
        "same socket again",
        "ICMP error of the call taken",
        "The socket still has an errno, an ICMP error or a port of an attempt before; or the program asks for SO_ERROR"
        " without a pause and so takes the errno away before the socket has closed.",
    ),
)

AFTER = """\
These rows have tests of their own: the decision in `tests/unit/test_outcome.py`; missed ends in
`tests/kernel/test_missed_ends.py`, with probes that miss them on purpose; an agent that stops first, and an attempt
that is too old, in `tests/kernel/test_capture.py`. What the kernel keeps from the probes while a processor runs other
BPF programs is counted: [probes were skipped](troubleshooting.md#probes-were-skipped).

Does a test notice when one of these cases is no longer handled? `python -m tests.conformance.removals` takes the
handling out, one part after another, and shows for each case the first cell that goes wrong."""
