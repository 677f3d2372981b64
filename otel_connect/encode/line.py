"""The display line of an attempt: ``curl[4242] → 10.1.2.80:443 refused after 0.4 ms (ECONNREFUSED)``.

Where the name of the server was observed it comes first: ``curl[4242] → shop.example:443 (10.1.2.80) refused …``;
with the peer's port where that is not the one that was asked for: ``… shop.example:443 (10.1.2.80:8443) refused …``.
"""

from functools import lru_cache

from otel_connect.errnos import errno_name
from otel_connect.model import Attempt, Outcome, ServerName, Verdict

_MICROSECOND, _MILLISECOND, _SECOND = 1_000, 1_000_000, 1_000_000_000

_WORDS = {
    Outcome.ESTABLISHED: "established",
    Outcome.REFUSED: "refused",
    Outcome.RESET: "reset",
    Outcome.TIMED_OUT: "timed out",
    Outcome.UNREACHABLE: "unreachable",
    Outcome.DENIED: "denied",
    Outcome.LOCAL_ERROR: "failed locally",
    Outcome.ABANDONED: "abandoned",
    Outcome.PENDING: "still pending",
    Outcome.UNKNOWN: "ended unseen",
}


def display_line(attempt: Attempt) -> str:
    """Return one line without control characters, for the body of the log record and for people."""
    event = attempt.event
    after = "" if event.duration_ns is None else f" after {duration(event.duration_ns)}"
    head = _head(attempt.process.executable_name, event.pid, *event.target, attempt.named.server)
    word, reason = _end(attempt.verdict, attempt.superseded)
    return f"{head}{word}{after}{reason}"


def duration(nanoseconds: int) -> str:
    """Say a duration as people do: ``85 µs``, ``0.4 ms``, ``340 ms``, ``3.1 s``, ``2 min 10 s``.

    Each limit is where the digits that are shown would round up to the next unit.
    """
    if nanoseconds < 99_500:
        return f"{nanoseconds / _MICROSECOND:.0f} µs"
    if nanoseconds < 9_950_000:
        return f"{nanoseconds / _MILLISECOND:.1f} ms"
    if nanoseconds < 999_500_000:
        return f"{nanoseconds / _MILLISECOND:.0f} ms"
    if nanoseconds < 59_950_000_000:
        return f"{nanoseconds / _SECOND:.1f} s"
    minutes, seconds = divmod(round(nanoseconds / _SECOND), 60)
    return f"{minutes} min {seconds} s"


def endpoint(address: str | None, port: int | None) -> str:
    """Join an address and a port in one word, an IPv6 address in brackets."""
    if address is None:
        return "an unknown address"
    host = f"[{address}]" if ":" in address else address
    return host if port is None else f"{host}:{port}"


def server_endpoint(attempt: Attempt) -> str:
    """Join the server's name, or else the peer's address, and its port; without control characters."""
    address, port = attempt.event.target
    server = attempt.named.server
    return endpoint(address, port) if server is None else _named_endpoint(server, port)


@lru_cache(4096)
def _head(executable_name: str, pid: int, address: str | None, port: int | None, server: ServerName | None) -> str:
    if server is None:
        to = endpoint(address, port)
    elif server.port is None:
        to = f"{_named_endpoint(server, port)} ({'an unknown address' if address is None else address})"
    else:
        to = f"{_named_endpoint(server, port)} ({endpoint(address, port)})"
    return f"{_one_line(executable_name)}[{pid}] → {to} "


def _named_endpoint(server: ServerName, port: int | None) -> str:
    return endpoint(_one_line(server.name), server.port_beside(port))


@lru_cache(1024)
def _end(verdict: Verdict, superseded: bool) -> tuple[str, str]:  # noqa: FBT001 - a field, not a switch
    outcome, errno = verdict
    if outcome is Outcome.ABANDONED and superseded:
        return _WORDS[outcome], " (superseded)"
    if errno is None:
        return _WORDS[outcome], ""
    return _WORDS[outcome], f" ({errno_name(errno) or f'errno {errno}'})"


def _one_line(name: str) -> str:
    """Escape what would break the line: a program may call itself anything."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
