"""The names that /etc/hosts gives to addresses, as the process that connects has that file."""

import ipaddress
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from cachetools import LRUCache

from otel_connect.enrich.rooted import Identity, RootedFile, read_file

_NAME_CHARACTERS = 253
_AGAIN_NS = 2_000_000_000
_NO_NAMES: Mapping[str, str] = {}

ReadHosts = Callable[[int, int], RootedFile | None]


class Hosts:
    """Reads the file of a process when it is first asked for, and again after some time; remembers some of them."""

    def __init__(self, read: ReadHosts, clock_ns: Callable[[], int], remembered: int = 4096) -> None:
        self._read = read
        self._clock_ns = clock_ns
        self._of_process: LRUCache[tuple[int, int], tuple[int, Mapping[str, str]]] = LRUCache(remembered)
        self._tables: LRUCache[Identity, Mapping[str, str]] = LRUCache(64)

    def name(self, pid: int, start_boot_ns: int, address: str) -> str | None:
        """Return the first name that the file of a process has for an address; never for loopback."""
        if address.startswith("127.") or address == "::1":
            return None
        now = self._clock_ns()
        read_at, table = self._of_process.get((pid, start_boot_ns), (-_AGAIN_NS, _NO_NAMES))
        if now - read_at >= _AGAIN_NS:
            found = self._read(pid, start_boot_ns)
            if found is not None:  # else it has gone, and what it had is still true of it
                table = self._table(found)
            self._of_process[pid, start_boot_ns] = now, table
        return table.get(address)

    def _table(self, file: RootedFile) -> Mapping[str, str]:
        table = self._tables.get(file.identity)
        if table is None:
            table = self._tables[file.identity] = parse_hosts(file.content)
        return table


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
            if name and len(name) <= _NAME_CHARACTERS:
                table.setdefault(str(mapped or found), name)
    return table


def read_hosts(pid: int, start_boot_ns: int, proc: Path = Path("/proc")) -> RootedFile | None:
    """Read the hosts file of a process; ``None`` as for ``rooted.read_file``."""
    return read_file(pid, start_boot_ns, "/etc/hosts", proc)
