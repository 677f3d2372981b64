"""How each target of a random plan ends an attempt that is waited for, and how soon it can."""

import errno
from collections.abc import Mapping

from tests.support.peer import ICMP_ERRORS, Answer
from tests.support.random_plan import CLOSED, LISTENER, NEIGHBOURLESS, OCCUPIED, ROUTED, Aim

End = tuple[str, int | None]
"""Outcome and errno, as a record has them."""

ABANDONED: End = ("abandoned", None)
ESTABLISHED: End = ("established", None)
UNKNOWN: End = ("unknown", None)
TIMED_OUT: End = ("timed_out", errno.ETIMEDOUT)
EADDRNOTAVAIL: End = ("local_error", errno.EADDRNOTAVAIL)

_ROUTE_ENDS: Mapping[str, End] = {
    "prohibit": ("denied", errno.EACCES),
    "unreachable": ("local_error", errno.EHOSTUNREACH),
    "blackhole": ("local_error", errno.EINVAL),
    "none": ("local_error", errno.ENETUNREACH),
    OCCUPIED: EADDRNOTAVAIL,
}
_NETWORK_ENDS: Mapping[str | Answer, End] = {
    LISTENER: ESTABLISHED,
    CLOSED: ("refused", errno.ECONNREFUSED),
    NEIGHBOURLESS: ("unreachable", errno.EHOSTUNREACH),
    f"{ROUTED}: unreachable": ("unreachable", errno.EHOSTUNREACH),
    f"{ROUTED}: none": ("unreachable", errno.ENETUNREACH),
    Answer.ACCEPT: ESTABLISHED,
    Answer.REFUSE: ("refused", errno.ECONNREFUSED),
    Answer.RESET: ("reset", errno.ECONNRESET),
    Answer.SILENT: TIMED_OUT,
    Answer.NET_UNREACHABLE: ("unreachable", errno.ENETUNREACH),
    Answer.HOST_UNREACHABLE: ("unreachable", errno.EHOSTUNREACH),
    Answer.HOST_UNKNOWN: ("unreachable", errno.EHOSTDOWN),
    Answer.PROTOCOL_UNREACHABLE: ("unreachable", errno.ENOPROTOOPT),
    Answer.PORT_UNREACHABLE: ("refused", errno.ECONNREFUSED),
    Answer.PROHIBITED: ("unreachable", errno.EHOSTUNREACH),
}
# Where ICMPv6 has another errno than ICMP for the same (tcp_v6_err, icmpv6_err_convert).
_NETWORK_ENDS_V6: Mapping[str | Answer, End] = {
    Answer.PROHIBITED: ("unreachable", errno.EACCES),
    f"{ROUTED}: unreachable": ("unreachable", errno.ENETUNREACH),
}
_BY_ICMP = {*ICMP_ERRORS, NEIGHBOURLESS, f"{ROUTED}: unreachable", f"{ROUTED}: none"}

FIRST_RETRY_S, _TIMEOUT_S = 0.95, 2.85  # 1 and 3, and a timer may begin a tick before the clock is read


def expected_end(aim: Aim) -> End:
    """Return how an attempt ends that is waited for."""
    if aim.kind in _ROUTE_ENDS:
        return _ROUTE_ENDS[str(aim.kind)]
    if ":" in aim.target.address and aim.kind in _NETWORK_ENDS_V6:
        return _NETWORK_ENDS_V6[aim.kind]
    return _NETWORK_ENDS[aim.kind]


def earliest_answer_s(aim: Aim) -> float:
    """Return how long after its SYN the network can end an attempt at the earliest."""
    if aim.behaviour is None:
        return 0.0
    if aim.kind is Answer.SILENT:
        return _TIMEOUT_S
    return aim.behaviour.delay + (FIRST_RETRY_S if aim.behaviour.on_syn > 1 else 0.0)


def is_local(aim: Aim) -> bool:
    """Say whether the host itself refuses, before any SYN."""
    return aim.kind in _ROUTE_ENDS


def leaves_soft_error(aim: Aim) -> bool:
    """Say whether its answer may stay on the socket after the attempt (``sk_err_soft``)."""
    return aim.kind in _BY_ICMP


def is_kept(aim: Aim) -> bool:
    """Say whether the kernel keeps a trace of its error that SO_ERROR does not take away.

    SO_ERROR can take an error before the state changes. Of a RST there is the mark of the probes, an ICMP error is
    in the queue of the socket; but an ICMPv6 error is not, and a timeout leaves nothing.
    """
    return aim.kind is not Answer.SILENT and (":" not in aim.target.address or not leaves_soft_error(aim))
