"""The case table: for each way a connect attempt can end, the kernel's evidence and what it means.

``shown_by`` says where the evidence itself is proven: ``kernel`` rows are made with real sockets in
tests/kernel, the others name what a machine must have to show them.
"""

import errno
from socket import AF_INET6
from typing import Any, NamedTuple

from otel_connect.model import Ending, EventFlag, Hook, Outcome

KERNEL = "kernel"

E, S, D, X = Hook.ENTER, Hook.SYN_SENT, Hook.END, Hook.EXIT
UNCONNECTED, CONNECTING, DISCONNECTING = 1, 2, 4
CLOSED_BY_APPLICATION = 3
LOCKED = int(EventFlag.LOCKED)


class OutcomeCase(NamedTuple):
    """One row: what the probes recorded, and the verdict."""

    name: str
    evidence: dict[str, Any]
    outcome: Outcome
    errno: int | None = None
    shown_by: str = KERNEL


def established(**more: Any) -> dict[str, Any]:
    return {"ending": Ending.ESTABLISHED, "hooks": E | S | D, "sk_err": 0, "returned": 0, **more}


def closed(sk_err: int = 0, **more: Any) -> dict[str, Any]:
    state = {"socket_state": CONNECTING, "shutdown": 0, "sk_err_soft": 0}
    return {"ending": Ending.CLOSED, "hooks": E | S | D, "sk_err": sk_err, "returned": 0, **state, **more}


def given_up(**more: Any) -> dict[str, Any]:
    return closed(flags=LOCKED, **more)


def returned(number: int, **more: Any) -> dict[str, Any]:
    return {
        "ending": Ending.RETURNED,
        "hooks": E | X,
        "sk_err": 0,
        "returned": -number,
        "socket_state": 0,
        **more,
    }


NONBLOCKING = {"hooks": E | S | D | X, "returned": -errno.EINPROGRESS}
CLOSED_IN_CALL = {
    "hooks": E | S | D | X, "flags": int(EventFlag.CLOSED_IN_CALL | EventFlag.LOCKED), "socket_state": UNCONNECTED
}  # fmt: skip
END_MISSED = {"hooks": E | S | X}
WITHOUT_PROGRAMS = "a state hook without its programs for ends (tests/kernel/test_missed_ends.py)"

CASES = (
    OutcomeCase("blocking, accepted", established(), Outcome.ESTABLISHED),
    OutcomeCase("non-blocking, accepted 20 ms away", established(**NONBLOCKING), Outcome.ESTABLISHED),
    OutcomeCase("accepted after a lost SYN", established(syn_retransmits=1), Outcome.ESTABLISHED),
    OutcomeCase("self-connect through SYN_RECV", established(), Outcome.ESTABLISHED),
    OutcomeCase("MSG_FASTOPEN: no connect() call", established(hooks=S | D), Outcome.ESTABLISHED),
    OutcomeCase("TCP_FASTOPEN_CONNECT: returns 0, established at the first write",
                established(hooks=E | S | D | X), Outcome.ESTABLISHED),
    OutcomeCase("io_uring: no connect() call", established(hooks=S | D), Outcome.ESTABLISHED),
    OutcomeCase("32-bit caller: no connect() call", closed(111, hooks=S | D), Outcome.REFUSED,
                errno.ECONNREFUSED),
    OutcomeCase("MPTCP: the subflow", established(flags=int(EventFlag.MPTCP)), Outcome.ESTABLISHED),
    OutcomeCase("signal on a blocking connect, attempt goes on", established(returned=-512, hooks=E | S | D | X),
                Outcome.ESTABLISHED),
    OutcomeCase("SO_SNDTIMEO ran out, attempt goes on", established(**NONBLOCKING), Outcome.ESTABLISHED),
    OutcomeCase("RST, blocking", closed(errno.ECONNREFUSED), Outcome.REFUSED, errno.ECONNREFUSED),
    OutcomeCase("RST, non-blocking", closed(errno.ECONNREFUSED, **NONBLOCKING), Outcome.REFUSED, errno.ECONNREFUSED),
    OutcomeCase("nft reject with tcp reset on output", closed(errno.ECONNREFUSED), Outcome.REFUSED,
                errno.ECONNREFUSED),
    OutcomeCase("refused while connect() transmits", returned(errno.ECONNREFUSED, **CLOSED_IN_CALL),
                Outcome.REFUSED, errno.ECONNREFUSED, shown_by="a netfilter verdict that carries the errno"),
    OutcomeCase("RST in SYN_RECV (simultaneous open)", closed(errno.ECONNRESET), Outcome.RESET, errno.ECONNRESET),
    OutcomeCase("SYN timeout", closed(errno.ETIMEDOUT, syn_retransmits=6), Outcome.TIMED_OUT, errno.ETIMEDOUT),
    OutcomeCase("TCP_USER_TIMEOUT", closed(errno.ETIMEDOUT), Outcome.TIMED_OUT, errno.ETIMEDOUT),
    OutcomeCase("closed by another thread while blocked", closed(errno.ETIMEDOUT), Outcome.TIMED_OUT,
                errno.ETIMEDOUT),
    OutcomeCase("ARP failure", closed(errno.EHOSTUNREACH), Outcome.UNREACHABLE, errno.EHOSTUNREACH),
    OutcomeCase("ICMP host unreachable", closed(errno.EHOSTUNREACH, **NONBLOCKING), Outcome.UNREACHABLE,
                errno.EHOSTUNREACH),
    OutcomeCase("ICMP net unreachable", closed(errno.ENETUNREACH), Outcome.UNREACHABLE, errno.ENETUNREACH),
    OutcomeCase("ICMP port unreachable", closed(errno.ECONNREFUSED), Outcome.REFUSED, errno.ECONNREFUSED),
    OutcomeCase("ICMP host unknown", closed(errno.EHOSTDOWN), Outcome.UNREACHABLE, errno.EHOSTDOWN),
    OutcomeCase("ICMP protocol unreachable", closed(errno.ENOPROTOOPT), Outcome.UNREACHABLE, errno.ENOPROTOOPT),
    OutcomeCase("ICMPv6 administratively prohibited", closed(errno.EACCES), Outcome.UNREACHABLE, errno.EACCES),
    OutcomeCase("ICMP while connect() holds the socket, then closed",
                given_up(sk_err_soft=errno.EHOSTUNREACH, shutdown=CLOSED_BY_APPLICATION, **NONBLOCKING),
                Outcome.UNREACHABLE, errno.EHOSTUNREACH),
    OutcomeCase("nft reject with icmp on output, then closed",
                given_up(sk_err_soft=errno.ECONNREFUSED, shutdown=CLOSED_BY_APPLICATION, **NONBLOCKING),
                Outcome.REFUSED, errno.ECONNREFUSED),
    OutcomeCase("the socket's own error counts before a soft one",
                closed(errno.ETIMEDOUT, sk_err_soft=errno.EHOSTUNREACH), Outcome.TIMED_OUT, errno.ETIMEDOUT),
    OutcomeCase("prohibit route", returned(errno.EACCES), Outcome.DENIED, errno.EACCES),
    OutcomeCase("EPERM by cgroup BPF", returned(errno.EPERM), Outcome.DENIED, errno.EPERM),
    OutcomeCase("LSM denial", returned(errno.EACCES), Outcome.DENIED, errno.EACCES, shown_by="an LSM with a policy"),
    OutcomeCase("no route", returned(errno.ENETUNREACH), Outcome.LOCAL_ERROR, errno.ENETUNREACH),
    OutcomeCase("unreachable route", returned(errno.EHOSTUNREACH), Outcome.LOCAL_ERROR, errno.EHOSTUNREACH),
    OutcomeCase("blackhole route", returned(errno.EINVAL), Outcome.LOCAL_ERROR, errno.EINVAL),
    OutcomeCase("broadcast or multicast peer", returned(errno.ENETUNREACH), Outcome.LOCAL_ERROR, errno.ENETUNREACH),
    OutcomeCase("wrong family", returned(errno.EAFNOSUPPORT), Outcome.LOCAL_ERROR, errno.EAFNOSUPPORT),
    OutcomeCase("bad address pointer", returned(errno.EFAULT), Outcome.LOCAL_ERROR, errno.EFAULT),
    OutcomeCase("no port left", returned(errno.EADDRNOTAVAIL, **CLOSED_IN_CALL), Outcome.LOCAL_ERROR,
                errno.EADDRNOTAVAIL),
    OutcomeCase("no port left, return value not seen", given_up(socket_state=UNCONNECTED, hooks=S | D),
                Outcome.LOCAL_ERROR),
    OutcomeCase("close() while pending", given_up(shutdown=CLOSED_BY_APPLICATION, **NONBLOCKING), Outcome.ABANDONED),
    OutcomeCase("SIGKILL while blocked", given_up(shutdown=CLOSED_BY_APPLICATION, returned=-512),
                Outcome.ABANDONED),
    OutcomeCase("shutdown() while pending", given_up(socket_state=DISCONNECTING), Outcome.ABANDONED),
    OutcomeCase("connect(AF_UNSPEC) while pending", given_up(socket_state=CONNECTING), Outcome.ABANDONED),
    OutcomeCase("io_uring link timeout, then closed", given_up(shutdown=CLOSED_BY_APPLICATION, hooks=S | D),
                Outcome.ABANDONED),
    OutcomeCase("ss -K", closed(errno.ECONNABORTED), Outcome.ABANDONED, errno.ECONNABORTED),
    OutcomeCase("ICMP parameter problem", closed(errno.EPROTO), Outcome.LOCAL_ERROR, errno.EPROTO),
    OutcomeCase("the agent stops first", {"ending": Ending.PENDING}, Outcome.PENDING),
    OutcomeCase("replaced: the end was missed", {"ending": Ending.REPLACED}, Outcome.UNKNOWN,
                shown_by="a second tracer"),
    OutcomeCase("expired: the end was missed", {"ending": Ending.EXPIRED}, Outcome.UNKNOWN, shown_by="a second tracer"),
    OutcomeCase("MPTCP: closed while pending", given_up(socket_state=0),
                Outcome.ABANDONED),
    OutcomeCase("closed by the network, its error taken by SO_ERROR", closed(shutdown=0), Outcome.UNKNOWN,
                shown_by="a race of two processors that left no other trace: ICMPv6, a timeout"),
    OutcomeCase("the same, and closed by the application a moment later", closed(shutdown=CLOSED_BY_APPLICATION),
                Outcome.UNKNOWN, shown_by="none: close() waits for the lock"),
    OutcomeCase("RST, its error taken by SO_ERROR", closed(errno.ECONNREFUSED), Outcome.REFUSED, errno.ECONNREFUSED),
    OutcomeCase("given up, with the ICMPv6 error of an earlier attempt",
                given_up(sk_err_soft=-errno.ENETUNREACH, shutdown=CLOSED_BY_APPLICATION, family=AF_INET6),
                Outcome.UNKNOWN),
    OutcomeCase("given up, with the ICMP error of an earlier attempt",
                given_up(sk_err_soft=-errno.ENETUNREACH, shutdown=CLOSED_BY_APPLICATION), Outcome.ABANDONED),
    OutcomeCase("ICMP, its error taken by SO_ERROR", closed(sk_err_soft=errno.EHOSTUNREACH), Outcome.UNREACHABLE,
                errno.EHOSTUNREACH),
    OutcomeCase("end missed, connect() returns: timed out", returned(errno.ETIMEDOUT, **END_MISSED),
                Outcome.TIMED_OUT, errno.ETIMEDOUT, shown_by=WITHOUT_PROGRAMS),
    OutcomeCase("end missed, connect() returns: refused", returned(errno.ECONNREFUSED, **END_MISSED),
                Outcome.REFUSED, errno.ECONNREFUSED, shown_by=WITHOUT_PROGRAMS),
    OutcomeCase("end missed, connect() returns: host unreachable", returned(errno.EHOSTUNREACH, **END_MISSED),
                Outcome.UNREACHABLE, errno.EHOSTUNREACH, shown_by=WITHOUT_PROGRAMS),
    OutcomeCase("end missed, connect() returns: net unreachable", returned(errno.ENETUNREACH, **END_MISSED),
                Outcome.UNREACHABLE, errno.ENETUNREACH, shown_by=WITHOUT_PROGRAMS),
    OutcomeCase("end missed, connect() returns: ICMPv6 administratively prohibited",
                returned(errno.EACCES, **END_MISSED), Outcome.UNREACHABLE, errno.EACCES, shown_by=WITHOUT_PROGRAMS),
    OutcomeCase("end missed, connect() returns: ICMP parameter problem", returned(errno.EPROTO, **END_MISSED),
                Outcome.LOCAL_ERROR, errno.EPROTO, shown_by=WITHOUT_PROGRAMS),
    OutcomeCase("end missed, RST in SYN_RECV (simultaneous open)", returned(errno.ECONNRESET, **END_MISSED),
                Outcome.UNKNOWN, shown_by=WITHOUT_PROGRAMS),
    OutcomeCase("end missed, shutdown() by another thread while blocked", returned(errno.ECONNRESET, **END_MISSED),
                Outcome.UNKNOWN, shown_by=WITHOUT_PROGRAMS),
    OutcomeCase("end missed, shutdown() by another thread while blocked, Linux 6.7",
                returned(errno.EPIPE, **END_MISSED), Outcome.UNKNOWN, shown_by=WITHOUT_PROGRAMS),
    OutcomeCase("end missed, its error taken by another thread", returned(errno.ECONNABORTED, **END_MISSED),
                Outcome.UNKNOWN, shown_by="a race of two threads"),
    OutcomeCase("returned without an error", returned(0), Outcome.UNKNOWN, shown_by="none: it would be a fault"),
)  # fmt: skip
