"""The enricher of tests that are about something else: it asks nobody but for the executable and the user."""

from otel_connect.enrich.enricher import Enricher
from otel_connect.enrich.kubelet import Pods
from otel_connect.enrich.names import Names
from otel_connect.enrich.peers import KnownPeers
from otel_connect.enrich.processes import ExecutableLookup, Lookups, Processes, UserLookup, unknown
from otel_connect.enrich.workloads import Workloads


def make_enricher(
    executable: ExecutableLookup,
    user: UserLookup,
    remembered: int = 4096,
    *,
    names: Names | None = None,
    pods: Pods | None = None,
) -> Enricher:
    """Build one that names processes by these look-ups, and peers by what is seen."""
    workloads = Workloads(unknown, remembered)
    processes = Processes(Lookups(executable), user, remembered)
    return Enricher(processes, workloads, KnownPeers(()), names=names, pods=pods)
