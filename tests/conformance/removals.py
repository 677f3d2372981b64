"""Take the handling of one thing after another out of the agent, and see whether the cases that are about it go wrong.

    python -m tests.conformance.removals [PART …]      those whose removed text has one of these parts, else all

Takes some minutes and needs root. Each removal is made in a copy of the checkout. What it prints are rows of a table:
the case, what was removed, and the first cell that went wrong.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from otel_connect.capture.hooks import ProbeSet
from tests.support.cases import CASES
from tests.support.conformance import WRONG
from tests.support.measure import measure

ROOT = Path(__file__).parents[2]
OUTCOME = "otel_connect/capture/outcome.py"
_ATTEMPTS, _CALLS, _CONNECT, _PROCESSES = (
    "probes/attempts.h",
    "probes/calls.h",
    "probes/connect.c",
    "probes/processes.h",
)
_CHILD = "--cells"


class Removal(NamedTuple):
    """A text of a file that becomes another one, and the cases that are about it, ``CASE`` or ``CASE|…|ENTRY``."""

    file: str
    was: str
    becomes: str
    cases: Sequence[str]


REMOVALS = (
    Removal(
        _ATTEMPTS,
        "event->ending = OTC_ESTABLISHED;",
        "event->ending = OTC_CLOSED;",
        (
            *("accepted here", "accepted there", "connect() twice", "thread", "beside another service"),
            *("SO_SNDTIMEO, established", "signal", "signal and restart", "further subflow"),
        ),
    ),
    Removal(
        _ATTEMPTS,
        "event->syn_retransmits = total > 255 ? 255 : total;",
        ";",
        ("accepted after 1 lost SYN", "accepted after 2 lost SYN", "silent"),
    ),
    Removal(
        _CONNECT,
        "if (new == TCP_SYN_RECV) /* simultaneous open: still pending */",
        "if (0)",
        ("self-connect", "reset"),
    ),
    Removal(
        _ATTEMPTS,
        "event->sk_err = error;",
        ";",
        (
            *("silent", "TCP_USER_TIMEOUT", "no neighbour", "ss -K", "closed by another thread"),
            *("ICMP host_unreachable", "ICMP net_unreachable", "ICMP port_unreachable", "ICMP prohibited"),
            "ICMP parameter_problem",
        ),
    ),
    Removal(
        OUTCOME,
        "errno.ECONNREFUSED: Outcome.REFUSED,",
        "",
        (
            *("refused here", "refused there", "firewall resets", "firewall rejects", "SO_SNDTIMEO, refused"),
            *("late report", "sendto() between calls", "two threads", "socketcall()", "same socket again"),
        ),
    ),
    Removal(OUTCOME, "errno.EHOSTUNREACH: Outcome.UNREACHABLE,", "", ("router prohibit", "router unreachable")),
    Removal(OUTCOME, "errno.ENETUNREACH: Outcome.UNREACHABLE,", "", ("router none",)),
    Removal(OUTCOME, "errno.EHOSTDOWN: Outcome.UNREACHABLE,", "", ("ICMP host_unknown",)),
    Removal(OUTCOME, "errno.ENOPROTOOPT: Outcome.UNREACHABLE,", "", ("ICMP protocol_unreachable",)),
    Removal(
        OUTCOME,
        "return Verdict(Outcome.ABANDONED, None)",
        "return Verdict(Outcome.UNKNOWN, None)",
        (
            *(f"given up by {how}" for how in ("close", "linger", "shutdown", "unspec")),
            *(f"time limit, {how}" for how in ("close", "linger", "shutdown", "unspec")),
            *("killed", "SO_SNDTIMEO, given up"),
        ),
    ),
    Removal(
        _ATTEMPTS,
        "local_failure(count, call, returned, recorder);",
        ";",
        (
            *("prohibit route", "unreachable route", "blackhole route", "no route", "broadcast"),
            *("wrong family", "bad pointer", "cgroup program"),
        ),
    ),
    Removal(
        _CONNECT,
        "open_call(file_of(fd), address, length, true);",
        ";",
        ("no route|blocking|IPv4|io_uring", "prohibit route|blocking|IPv6|io_uring SQPOLL"),
    ),
    Removal(
        _CALLS,
        "call.protocol != OTC_IPPROTO_TCP && call.protocol != IPPROTO_MPTCP",
        "call.protocol != OTC_IPPROTO_TCP",
        ("no route|blocking|IPv4|MPTCP",),
    ),
    Removal(_ATTEMPTS, "&& call && call->attempt == sk) {", "&& 0) {", ("no port left",)),
    Removal(_ATTEMPTS, "if (!sent)\n\t\treturn false;", "", ("no port left, refused before",)),
    Removal(_ATTEMPTS, "if (error && (sent || !locked))", "if (error)", ("no port left, undone before",)),
    Removal(
        _ATTEMPTS,
        "soft == attempt->soft_error ? -soft : soft;",
        "soft;",
        ("given up, ICMP error before", "given up, ICMPv6 error before"),
    ),
    Removal(
        _ATTEMPTS,
        "attempt->event.sk_err = state == TCP_SYN_SENT ? ECONNREFUSED : ECONNRESET;",
        ";",
        ("errno taken at once",),
    ),
    Removal(_ATTEMPTS, "event->sk_err_soft = queued;", ";", ("ICMP error taken at once",)),
    Removal(
        _ATTEMPTS,
        "event->sk_err_soft = soft;",
        ";",
        ("ICMP error of the call taken|non-blocking|IPv6|connect()",),
    ),
    Removal(_ATTEMPTS, " && !reports_another(call)", "", ("overtaken thread",)),
    Removal(_ATTEMPTS, "return error > 0 && ", "return ", ("no attempt",)),
    Removal(
        _ATTEMPTS,
        "local_failure(count, call, returned, recorder);\n\tcalls.delete(&key);",
        "local_failure(count, call, returned, recorder);",
        ("sendto() between calls",),
    ),
    Removal(_ATTEMPTS, "if (is_join(tcp_sock(sk)))", "if (0)", ("further subflow",)),
    Removal(_ATTEMPTS, "if (!sent && is_unsent(event))", "if (0)", ("TCP_REPAIR",)),
    Removal(
        _CALLS,
        "else if (call->length >= 24)",
        "else if (0)",
        ("address of 24 bytes", "no route, address of 24 bytes"),
    ),
    Removal(_PROCESSES, "LOAD_TASK(event->uid, cred, OFF_cred__euid);", ";", ("effective user",)),
)
WITHOUT = frozenset({"seccomp"})
"""Cases that nothing handles."""


def read(removal: Removal, root: Path = ROOT) -> str:
    """Return the file without what is removed; raises AssertionError if that is not there exactly once."""
    text = (root / removal.file).read_text(encoding="utf-8")
    assert text.count(removal.was) == 1, removal
    return text.replace(removal.was, removal.becomes)


def chosen(cases: Sequence[str]) -> list[str]:
    """Return the names of the cells that stand for cases, of all ways."""
    return [case.name for case in CASES if case.what in cases or case.name in cases]


def first_wrong(removal: Removal) -> Iterator[tuple[str, str]]:
    """Make the cases of a removal without it; yield each with the first of its cells that goes wrong, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("otel_connect", "probes", "tests"):
            shutil.copytree(ROOT / part, Path(folder, part), ignore=shutil.ignore_patterns("__pycache__"))
        Path(folder, removal.file).write_text(read(removal), encoding="utf-8")
        argv = [sys.executable, "-m", "tests.conformance.removals", _CHILD, *removal.cases]
        environment = os.environ | {"PYTHONPATH": folder}
        made = subprocess.run(argv, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    cells: dict[str, str] = json.loads(made.stdout)
    for case in removal.cases:
        names = set(chosen([case]))
        yield case, next((f"{name}: {said}" for name, said in cells.items() if name in names and WRONG in said), "")


def main() -> int:
    """Print a row for each case of each removal; returns the exit code, 1 if one was not noticed."""
    if sys.argv[1:2] == [_CHILD]:
        wanted = set(chosen(sys.argv[2:]))
        cells = measure([case for case in CASES if case.name in wanted], [ProbeSet.TYPED])[ProbeSet.TYPED]
        print(json.dumps(cells))
        return 0
    unnoticed = 0
    for removal in REMOVALS:
        if sys.argv[1:] and not any(part in removal.was for part in sys.argv[1:]):
            continue
        for case, wrong in first_wrong(removal):
            removed = " ".join(removal.was.split())
            row = (case, f"`{removed}` → `{removal.becomes}`", wrong or "**not noticed**")
            print(f"| {' | '.join(one.replace('|', ', ') for one in row)} |", flush=True)
            unnoticed += not wrong
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main())
