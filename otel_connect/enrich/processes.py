"""Who made an attempt: its process, remembered as long as it is likely to make more."""

from collections.abc import Callable

from cachetools import LRUCache

from otel_connect.model import ConnectEvent, Process

ExecutableLookup = Callable[[int, int], str | None]
UserLookup = Callable[[int], str | None]


class Processes:
    """Names processes; asks each look-up once for a process, and remembers a bounded number of them."""

    def __init__(self, executable: ExecutableLookup, user: UserLookup, remembered: int) -> None:
        self._executable = executable
        self._user = user
        self._known: LRUCache[tuple[int, int, str, int], Process] = LRUCache(remembered)
        self.misses = 0
        """Processes whose executable was not to be found out any more."""

    def name(self, event: ConnectEvent) -> Process:
        """Name the process of an event; without its executable, by what the kernel called the thread."""
        # An exec leaves pid and start time as they are, but renames the thread; setuid changes the user.
        key = (event.pid, event.process_start_boot_ns, event.comm, event.uid)
        known = self._known.get(key)
        if known is not None:
            return known
        path = self._executable(event.pid, event.process_start_boot_ns)
        name = path.rpartition("/")[2] if path else ""
        process = Process(name or event.comm, path, self._user(event.uid))
        if path is None:
            self.misses += 1
        else:
            self._known[key] = process
        return process
