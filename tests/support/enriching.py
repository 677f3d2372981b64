"""The enricher of tests that are about something else: it asks nobody but for the executable and the user."""

from otel_connect.enrich.enricher import Enricher
from otel_connect.enrich.names import Names
from otel_connect.enrich.peers import KnownPeers
from otel_connect.enrich.processes import ExecutableLookup, Lookups, Processes, UserLookup
from otel_connect.enrich.workloads import Workloads


def make_enricher(
    executable: ExecutableLookup, user: UserLookup, remembered: int = 4096, names: Names | None = None
) -> Enricher:
    """Build one that names processes by these look-ups, and peers by what is seen."""
    workloads = Workloads(lambda _pid, _start: None, remembered)
    return Enricher(Processes(Lookups(executable), user, remembered), workloads, KnownPeers(()), names=names)
