"""The socket of the status server, bound early so that a refusal costs nothing yet; and how a client asks it."""

import os
import socket
import stat
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from otel_connect.config import DEFAULT_LISTEN, Listen, ServeConfig, parse_listen
from otel_connect.errors import ConfigError

SERVER = "otel-connect"
"""What the status server calls itself in the header ``Server``, so that a client can tell it from others."""

_BACKLOG = 64
_ASK_S = 5.0
_REMEDY = "name another address, or off"
_ASK_REMEDY = "give this command the --config and the OTEL_CONNECT_LISTEN of the agent"


class NotAliveError(Exception):
    """An agent did not say that it is alive; the message is one line with the cause and the remedy."""


def wanted(config: ServeConfig) -> Listen | None:
    """Return where the status server listens, ``None`` for nowhere."""
    if config.listen is None:
        return DEFAULT_LISTEN
    return parse_listen(config.listen) if config.listen else None


class Listener:
    """A listening socket. A Unix socket is its owner's alone, and removed when closed."""

    def __init__(self, address: Listen) -> None:
        """Bind and listen; raises ConfigError with one line."""
        self.address = address
        self._inode: int | None = None
        try:
            self.socket = self._unix(Path(address.path)) if address.path else _tcp(address)
        except OSError as error:
            raise ConfigError([f"serve.listen: cannot listen at {address} ({error.strerror}); {_REMEDY}"]) from error

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()
        path = self.address.path
        if path and self._inode is not None:
            with suppress(OSError):
                if Path(path).stat().st_ino == self._inode:  # not one that another agent has put there since
                    Path(path).unlink()

    def _unix(self, path: Path) -> socket.socket:
        _remove_stale(path)
        listening = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
            listening.listen(_BACKLOG)
            self._inode = path.stat().st_ino
        except BaseException:
            listening.close()
            raise
        finally:
            os.umask(before)
        return listening


def _tcp(address: Listen) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_stale(path: Path) -> None:
    """Remove the socket of an agent that is gone; leave alone whatever else is there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        return  # bind will say that the address is in use
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError:
            return


def ask_livez(address: Listen) -> str:
    """Ask the agent at an address whether it is alive, and return its answer; raises NotAliveError."""
    connection = _Connection(address)
    try:
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        said = answer.read(1000).decode("utf-8", "replace").strip()
    except HTTPException as error:
        raise NotAliveError(_something_else(address, repr(error))) from error
    except OSError as error:
        raise NotAliveError(_unreachable(address, error)) from error
    finally:
        connection.close()
    if answer.headers.get("Server") != SERVER:
        raise NotAliveError(_something_else(address, f"HTTP {answer.status}"))
    if answer.status != HTTPStatus.OK:
        raise NotAliveError(f"the agent at {address} is not alive: {said}")
    return said


def _something_else(address: Listen, what: str) -> str:
    return f"something other than otel-connect answers at {address} ({what}); {_ASK_REMEDY}"


def _unreachable(address: Listen, error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return f"nothing listens at {address}: no agent runs, or it listens elsewhere; {_ASK_REMEDY}"
    if isinstance(error, TimeoutError):
        return f"no answer from {address} within {_ASK_S:.0f} s: the agent there is stopped, or the host is overloaded"
    if isinstance(error, PermissionError):
        return f"{address} cannot be asked ({error.strerror}); run this as the user of the agent, or as root"
    return f"{address} cannot be asked ({error.strerror}); {_ASK_REMEDY}"


class _Connection(HTTPConnection):
    def __init__(self, address: Listen) -> None:
        super().__init__(address.host, address.port or None, timeout=_ASK_S)
        self._address = address

    def connect(self) -> None:
        if not self._address.path:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_ASK_S)
        self.sock.connect(self._address.path)
