"""The names that /etc/hosts gives to addresses, as the process that connects has that file."""

import ipaddress
from collections.abc import Callable, Mapping
from contextlib import suppress

from cachetools import LRUCache

from otel_connect.enrich.rooted import Identity

_NAME_CHARACTERS = 253
_AGAIN_NS = 2_000_000_000
_NO_NAMES: Mapping[str, str] = {}

FindHosts = Callable[[int, int], tuple[Identity, Mapping[str, str]] | None]
"""The hosts file of a process, by pid and start time: ``RootedFiles.find`` with ``parse_hosts``."""


class Hosts:
    """Finds the file of a process when it is first asked for, and again after some time; remembers some of them."""

    def __init__(self, find: FindHosts, clock_ns: Callable[[], int], remembered: int = 4096) -> None:
        self._find = find
        self._clock_ns = clock_ns
        self._of_process: LRUCache[tuple[int, int], tuple[int, Mapping[str, str]]] = LRUCache(remembered)

    def name(self, pid: int, start_boot_ns: int, address: str) -> str | None:
        """Return the first name that the file of a process has for an address; never for loopback."""
        if address.startswith("127.") or address == "::1":
            return None
        now = self._clock_ns()
        found_at, table = self._of_process.get((pid, start_boot_ns), (-_AGAIN_NS, _NO_NAMES))
        if now - found_at >= _AGAIN_NS:
            found = self._find(pid, start_boot_ns)
            if found is not None:  # else it has gone, and what it had is still true of it
                _, table = found
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
        with suppress(ValueError):
            found = ipaddress.ip_address(address.decode("ascii", "replace"))
            mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
            if name and len(name) <= _NAME_CHARACTERS and name.isprintable():
                table.setdefault(str(mapped or found), name)
    return table
