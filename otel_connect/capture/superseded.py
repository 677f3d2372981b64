"""Which abandoned attempts had been overtaken by another of the same process (happy eyeballs)."""

from cachetools import LRUCache

from otel_connect.model import ConnectEvent, Outcome, Verdict


class Overtakes:
    """Remembers when each process last established a connection to a port, for a bounded number of them."""

    def __init__(self, remembered: int = 4096) -> None:
        self._established: LRUCache[tuple[int, int, int | None], int] = LRUCache(remembered)

    def superseded(self, event: ConnectEvent, verdict: Verdict) -> bool:
        """Take note of one decided event, in the order they ended; True if it was overtaken.

        Overtaken means: abandoned after the same process had established another connection to the same
        port, later than this attempt began.
        """
        key = (event.pid, event.process_start_boot_ns, event.peer_port)
        if verdict.outcome is Outcome.ESTABLISHED:
            self._established[key] = event.start_unix_ns + (event.duration_ns or 0)
            return False
        if verdict.outcome is not Outcome.ABANDONED:
            return False
        return self._established.get(key, 0) >= event.start_unix_ns
