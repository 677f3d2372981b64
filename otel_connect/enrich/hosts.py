"""The names that /etc/hosts gives to addresses, as the process that connects has that file."""

from collections.abc import Callable
from contextlib import suppress
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Protocol

from cachetools import LRUCache

_NAME_CHARACTERS = 253
_MAPPED = bytes(10) + b"\xff\xff"
_AGAIN_NS = 2_000_000_000


class Table(Protocol):
    """A hosts file: address → name."""

    def get(self, address: str, /) -> str | None:
        """Return the name of an address."""


_NO_NAMES: Table = {}

FindHosts = Callable[[int, int], Table | None]
"""The hosts file of a process, by pid and start time; ``None`` when it is gone: ``asking.Reader.hosts``."""


class Hosts:
    """Finds the file of a process when it is first asked for, and again after some time; remembers some of them."""

    def __init__(self, find: FindHosts, clock_ns: Callable[[], int], remembered: int = 4096) -> None:
        self._find = find
        self._clock_ns = clock_ns
        self._of_process: LRUCache[tuple[int, int], tuple[int, Table]] = LRUCache(remembered)

    def name(self, pid: int, start_boot_ns: int, address: str) -> str | None:
        """Return the first name that the file of a process has for an address; never for loopback."""
        if address.startswith("127.") or address == "::1":
            return None
        now = self._clock_ns()
        found_at, table = self._of_process.get((pid, start_boot_ns), (-_AGAIN_NS, _NO_NAMES))
        if now - found_at >= _AGAIN_NS:
            found = self._find(pid, start_boot_ns)
            if found is not None:  # else it has gone, and what it had is still true of it
                table = found
            self._of_process[pid, start_boot_ns] = now, table
        return table.get(address)


def parse_hosts(content: bytes) -> dict[str, str]:
    """Read address → its first name, of the first line that has it; lines that are not of this form are left out."""
    table: dict[str, str] = {}
    for line in content.splitlines():
        address, *names = line.partition(b"#")[0].split(maxsplit=2) or [b""]
        if not names:
            continue
        name = names[0].decode("utf-8", "backslashreplace").rstrip(".").lower()
        with suppress(OSError, ValueError):
            if name and len(name) <= _NAME_CHARACTERS and name.isprintable():
                table.setdefault(_address(address.decode("ascii", "replace")), name)
    return table


def _address(text: str) -> str:
    """Write an address as the kernel side does; raises OSError, or ValueError, if it is none."""
    if ":" not in text:
        return inet_ntop(AF_INET, inet_pton(AF_INET, text))
    packed = inet_pton(AF_INET6, text)
    return inet_ntop(AF_INET, packed[12:]) if packed.startswith(_MAPPED) else inet_ntop(AF_INET6, packed)
