"""What the service manager is told: sd_notify(3), without a library.

Messages go as datagrams to the socket that ``NOTIFY_SOCKET`` names. Where nobody listens they are lost, and
nothing here waits or fails for it.
"""

import socket
from collections.abc import Mapping

from otel_connect.serve.text import safe


class ServiceManager:
    """The other end of ``NOTIFY_SOCKET``; without one every message goes nowhere."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; ``pid`` is that of this process."""
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if path else None
        if self._socket is not None:
            self._socket.settimeout(0)
        self.watchdog_every_s = _watchdog_s(environ, pid) if path else None
        """How often to say that the agent is alive: half of what the manager waits; ``None``: it does not."""

    def ready(self, status: str) -> None:
        """Tell that the service runs, or runs again after ``reloading``."""
        self._send("READY=1", f"STATUS={safe(status)}")

    def reloading(self, monotonic_ns: int) -> None:
        """Tell that the configuration is read again; the time is that of CLOCK_MONOTONIC."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns // 1000}")

    def stopping(self) -> None:
        """Tell that the service ends itself."""
        self._send("STOPPING=1", "STATUS=stopping")

    def status(self, line: str) -> None:
        """Tell a person in one line how it is going."""
        self._send(f"STATUS={safe(line)}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *assignments: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(assignments).encode(), self._address)
        except OSError:
            return


def _watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    wait_us, of = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(pid))
    if of != str(pid) or not (wait_us.isascii() and wait_us.isdigit() and int(wait_us)):
        return None
    return int(wait_us) / 2e6
