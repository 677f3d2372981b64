"""Who is behind a translated address (DNAT): asked of the connection tracking of the agent's network namespace."""

import errno
import os
import socket
import struct
from types import TracebackType
from typing import Self

from otel_connect.enrich.conntrack import Answer, Endpoint, answer, request
from otel_connect.errors import NotPermittedError, ProbeError
from otel_connect.model import ConnectEvent

_NETLINK_NETFILTER = 12
_ANSWER_BYTES = 16384
_ANSWER_TIME = struct.pack("@ll", 1, 0)  # the kernel answers inside the system call: this never passes
_NOBODY = Endpoint("0.0.0.0", 0)  # noqa: S104 - asked for, not listened on


class Backends:
    """Looks connections up, one by one. Use as a context manager."""

    def __init__(self) -> None:
        """Open the socket and try it; raises NotPermittedError or ProbeError."""
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_TIME)
            self._try()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        """Nothing to do: the socket is open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the socket."""
        self._socket.close()

    def find(self, event: ConnectEvent) -> tuple[str, int] | None:
        """Return address and port of the real peer, ``None`` when it is the peer itself or not known."""
        if event.local_address is None or event.local_port is None:
            return None
        if event.peer_address is None or event.peer_port is None:
            return None
        peer = Endpoint(event.peer_address, event.peer_port)
        try:
            found = self._ask(Endpoint(event.local_address, event.local_port), peer).replies_from
        except (OSError, ValueError):
            return None
        return None if found == peer else found

    def _ask(self, source: Endpoint, destination: Endpoint) -> Answer:
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        self._socket.send(request(self._sequence, source, destination))
        while True:  # an answer that came too late for its question is not this one's
            said = answer(self._socket.recv(_ANSWER_BYTES))
            if said.sequence == self._sequence:
                return said

    def _try(self) -> None:
        try:
            code = self._ask(_NOBODY, _NOBODY).errno
        except OSError as error:
            code = error.errno or errno.EIO
        if code == errno.EPERM:
            raise NotPermittedError(
                "enrich.conntrack: the connection tracking may not be asked;"
                " grant CAP_NET_ADMIN, or set enrich.conntrack = false"
            )
        if code not in {0, errno.ENOENT}:
            raise ProbeError(
                f"enrich.conntrack: the kernel cannot be asked for connections ({os.strerror(code)});"
                " load nf_conntrack_netlink, or set enrich.conntrack = false"
            )
