"""The words of docs/conformance.md."""

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

GROUPS = (
    ("The other side decides", "accepted here", "TCP_USER_TIMEOUT"),
    ("Routers, neighbours, firewalls", "no neighbour", "firewall rejects"),
    ("Failures before a SYN", "prohibit route", "cgroup program"),
    ("The program gives up, or is interrupted", "given up by close", "closed by another thread"),
    ("Calls, threads, processes", "connect() twice", "TCP_REPAIR"),
    ("A socket with a history", "same socket again", "ICMP error of the call taken"),
)
"""Title, first and last case of each table."""

AFTER = """\
These rows are held by tests of their own: the decision by `tests/unit/test_outcome.py`, missed ends with probes that
miss them by `tests/kernel/test_missed_ends.py`, an agent that stops first by `tests/kernel/test_life.py`."""
