"""From the kernel's evidence to the outcome of an attempt: one pure function.

connect()'s return value is not the outcome: 0 can mean that nothing was sent yet, and an errno can report
an earlier attempt. What ends an attempt is the socket's state change, with the errno that the socket holds
then; the return value speaks only for attempts that never sent a SYN, and for those whose state change was
missed although connect() waited for it. Every outcome but ``unknown`` rests on something that was seen.
"""

import errno
from socket import AF_INET6

from otel_connect.model import ConnectEvent, Ending, EventFlag, Hook, Outcome, Verdict

_BY_SOCKET_ERROR = {
    errno.ECONNREFUSED: Outcome.REFUSED,
    errno.ECONNRESET: Outcome.RESET,
    errno.ETIMEDOUT: Outcome.TIMED_OUT,
    errno.EHOSTUNREACH: Outcome.UNREACHABLE,
    errno.ENETUNREACH: Outcome.UNREACHABLE,
    # what the other ICMP "destination unreachable" codes become (icmp_err_convert)
    errno.EACCES: Outcome.UNREACHABLE,
    errno.EHOSTDOWN: Outcome.UNREACHABLE,
    errno.ENONET: Outcome.UNREACHABLE,
    errno.ENOPROTOOPT: Outcome.UNREACHABLE,
    errno.EOPNOTSUPP: Outcome.UNREACHABLE,
    # SOCK_DESTROY ("ss -K") gave it up on the application's behalf.
    errno.ECONNABORTED: Outcome.ABANDONED,
}
# Returned for an attempt whose end was missed, these do not say which end it was.
_AMBIGUOUS = {
    errno.ECONNABORTED,  # the socket's own error had been taken by someone else (SO_ERROR)
    errno.ECONNRESET,  # a reset; or another thread's shutdown(), or a reset after the connection came about
    errno.EPIPE,  # another thread's shutdown() or connect(AF_UNSPEC); or a reset after the peer had closed
}
_ESTABLISHED = Verdict(Outcome.ESTABLISHED, None)
_DENIALS = {errno.EPERM, errno.EACCES}

_SYN_SENT, _END, _LOCKED = int(Hook.SYN_SENT), int(Hook.END), int(EventFlag.LOCKED)

_SHUTDOWN_MASK = 3  # RCV_SHUTDOWN | SEND_SHUTDOWN: close() sets both before it changes the state
_SS_UNCONNECTED = 1  # still inside connect(), which marks the socket only when it succeeds


def decide(event: ConnectEvent) -> Verdict:
    """Say what became of an attempt, and the errno that proves it (positive, ``None`` without one)."""
    match event.ending:
        case Ending.ESTABLISHED:
            return _ESTABLISHED
        case Ending.PENDING:
            return Verdict(Outcome.PENDING, None)
        case Ending.CLOSED:
            return _closed(event)
        case Ending.RETURNED:
            return _returned(event)
    return Verdict(Outcome.UNKNOWN, None)


def _closed(event: ConnectEvent) -> Verdict:
    # A non-blocking caller that meets an ICMP error in connect() closes the socket before the error becomes
    # the socket's own. So an error that was seen counts before the close.
    number = event.sk_err or max(event.sk_err_soft, 0)
    if number:
        return Verdict(_BY_SOCKET_ERROR.get(number, Outcome.LOCAL_ERROR), number)
    if not event.flags & _LOCKED:
        # The network or a timer ended it, and SO_ERROR took the errno before the state changed.
        return Verdict(Outcome.UNKNOWN, None)
    if event.socket_state == _SS_UNCONNECTED and event.shutdown & _SHUTDOWN_MASK != _SHUTDOWN_MASK:
        # connect() gave up by itself, and its return value was not seen (io_uring, 32-bit callers)
        return Verdict(Outcome.LOCAL_ERROR, None)
    if event.sk_err_soft < 0 and event.family == AF_INET6:
        # An ICMPv6 error of the same kind as one of an earlier attempt on the socket may have come again. One of
        # ICMPv4 would be in the error queue, too.
        return Verdict(Outcome.UNKNOWN, None)
    return Verdict(Outcome.ABANDONED, None)


def _returned(event: ConnectEvent) -> Verdict:
    number = -event.returned
    if number <= 0:
        return Verdict(Outcome.UNKNOWN, None)
    if event.hooks & _SYN_SENT and not event.hooks & _END:
        # What the host itself refuses is refused in the caller's context, where no end is missed: it has END.
        if number in _AMBIGUOUS:
            return Verdict(Outcome.UNKNOWN, None)
        return Verdict(_BY_SOCKET_ERROR.get(number, Outcome.LOCAL_ERROR), number)
    if number in _DENIALS:
        return Verdict(Outcome.DENIED, number)
    if number == errno.ECONNREFUSED and event.hooks & _SYN_SENT:
        return Verdict(Outcome.REFUSED, number)  # the one answer to its SYN that connect() itself honours
    return Verdict(Outcome.LOCAL_ERROR, number)
