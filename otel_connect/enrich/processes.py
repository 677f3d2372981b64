"""Who made an attempt: its process, remembered as long as it is likely to make more."""

from collections.abc import Callable, Iterable

from cachetools import LRUCache

from otel_connect.model import ConnectEvent, Executable, Process, Surroundings

ExecutableLookup = Callable[[int, int], str | None]
SurroundingsLookup = Callable[[int, int], Surroundings | None]
UserLookup = Callable[[int], str | None]


class Processes:
    """Names processes by what the kernel said of them, else by look-ups; remembers a bounded number of them.

    The kernel tells what a process runs before the first of its attempts that it captures. Look-ups serve for
    what was lost on the way or is forgotten: each is asked once for a process.
    """

    def __init__(
        self,
        executable: ExecutableLookup,
        user: UserLookup,
        remembered: int,
        surroundings: SurroundingsLookup = lambda _pid, _start: None,
    ) -> None:
        self._executable = executable
        self._surroundings = surroundings
        self._user = user
        self._told: LRUCache[tuple[int, int, int], Executable] = LRUCache(remembered)
        self._latest: LRUCache[tuple[int, int], Executable] = LRUCache(remembered)
        self._known: LRUCache[tuple[int, int, int, str, int], Process] = LRUCache(remembered)
        self.misses = 0
        """Processes whose executable was not to be found out any more."""

    def learn(self, executables: Iterable[Executable]) -> None:
        """Take note of what processes run."""
        for one in executables:
            self._told[one.pid, one.process_start_boot_ns, one.exec_id] = one
            self._latest[one.pid, one.process_start_boot_ns] = one

    def inherit(self, former: "Processes") -> None:
        """Take over what another one was told: the kernel does not tell it again."""
        self._told.update(former._told)  # noqa: SLF001 - one of its own
        self._latest.update(former._latest)  # noqa: SLF001

    def name(self, event: ConnectEvent) -> Process:
        """Name the process of an event; without its executable, by what the kernel called the thread."""
        # Where the kernel did not tell: an exec leaves pid and start time as they are, but renames the thread.
        key = (event.pid, event.process_start_boot_ns, event.exec_id, event.comm, event.uid)
        known = self._known.get(key)
        if known is not None:
            return known
        executable = self._find(event)
        if executable is None:
            self.misses += 1
            return Process(event.comm, None, self._user(event.uid))
        process = Process(executable.name or event.comm, executable.path, self._user(event.uid))
        self._known[key] = process
        return process

    def surroundings(self, event: ConnectEvent) -> Surroundings:
        """Say what the process of an event lives in, as far as it is known."""
        return self._surroundings(event.pid, event.process_start_boot_ns) or Surroundings()

    def _find(self, event: ConnectEvent) -> Executable | None:
        who = event.pid, event.process_start_boot_ns
        told = self._told.get((*who, event.exec_id))
        if told is None and not event.exec_id:  # attempts that were only counted do not say which
            told = self._latest.get(who)
        if told is not None:
            return told
        path = self._executable(*who)
        return None if path is None else Executable(*who, event.exec_id, path.rpartition("/")[2], path)
