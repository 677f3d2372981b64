"""A case of the table of ends: a way in which connect attempts end, made for real, and what must be said of them.

A subject is made in many ways: with blocking and non-blocking sockets, of each family, by each entry of the kernel.
What is left out of that says why. Outcomes are spelled out, not taken from the product: the table is what the product
is compared with.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import NamedTuple

from otel_connect.capture.hooks import ProbeSet, Sight
from tests.support.bench import AbsentError, Bench, Family, Run, Target
from tests.support.entries import Entry, call_unseen

EVERY = tuple(Family)
_NOWHERE = Target("", "", 0)
BOTH = (True, False)


class Expected(NamedTuple):
    """What must be said about one attempt; the client reports the same errno, if it reports one."""

    outcome: str
    errno_name: str | None
    syn_sent: bool
    """The kernel transmitted a SYN, be it only as far as a queue for a neighbour. An attempt that finds no
    free port passes through SYN_SENT and sends none."""
    syn_retransmits: int | None = 0
    """``None``: it depends on when the program gave up."""
    blocking: bool = True
    attributes: Mapping[str, object] = {}
    """What else the record says; ``None``: it has no such attribute."""
    or_unknown: bool = False
    """The kernel may leave no trace of what it was."""
    elsewhere: bool = False
    """It goes to another target than that of the run."""

    @property
    def result(self) -> str:
        """What the client calls it."""
        return "error" if self.errno_name else "ok" if self.outcome == "established" else "abandoned"

    @property
    def said(self) -> tuple[str, str | None]:
        """Return what the record says first: the outcome, and the errno that proves it."""
        return self.outcome, self.errno_name


class Way(NamedTuple):
    """How a subject is made."""

    family: Family
    blocking: bool
    entry: Entry


class Lost(NamedTuple):
    """What is said instead where the probes do not see the call, and what is missing then."""

    said: tuple[tuple[str, str | None], ...]
    why: str
    without: frozenset[ProbeSet] = frozenset()
    """The sets that do not see it although they see the calls of its entry."""


class Case(NamedTuple):
    """A subject made in one way; ``make`` runs the client to its end on a bench, and raises AbsentError."""

    what: str
    way: Way
    make: Callable[[Bench], Run]
    expected: tuple[Expected, ...]
    """The attempts of the client's process in the order of their start; most make one."""
    row: str
    """The same case in ``outcome_cases``, where the kernel's evidence is written down."""
    lost: Lost | None = None
    per_syn: bool = False
    """As many attempts as SYNs came to the peer for the first time, all as the one that is expected."""
    by_peer: bool = False
    """Attempts of other processes to the same peer count, too."""

    @property
    def name(self) -> str:
        """Name it, and its cell on the page."""
        socket = "blocking" if self.way.blocking else "non-blocking"
        return f"{self.what}|{socket}|{self.way.family.value}|{self.way.entry}"

    def was_late(self, run: Run) -> bool:
        """Say whether the peer was so late, on a busy machine, that it has had more SYNs than it was to have."""
        there = [one for one in self.expected if not one.elsewhere]
        if run.syns is None or self.per_syn or any(one.syn_retransmits is None for one in there):
            return False
        return run.syns > sum(one.syn_sent + (one.syn_retransmits or 0) for one in there)

    def unseen(self, sight: Sight) -> Lost | None:
        """Return what is said instead by probes that see so much, and why; ``None`` if they see all of it."""
        if self.lost is None or sight.probes in self.lost.without:
            return self.lost
        why = call_unseen(self.way.entry, sight)
        return self.lost._replace(why=f"{self.lost.why}; {why}") if why else None


class Subject(NamedTuple):
    """A way to end, and all the ways to make it; ``without`` says why it is not made in those that are left out."""

    what: str
    row: str
    make: Callable[[Bench, Way], Run]
    expected: Callable[[Way], Sequence[Expected]]
    families: tuple[Family, ...] = EVERY
    sockets: tuple[bool, ...] = BOTH
    entries: tuple[Entry, ...] = tuple(Entry)
    without: tuple[str, ...] = ()
    lost: Callable[[Way], Lost | None] = lambda _: None
    per_syn: bool = False
    by_peer: bool = False
    rows: Mapping[Entry, str] = {}
    """The row of entries that have one of their own."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return (self.families, self.sockets, self.entries) == (EVERY, BOTH, tuple(Entry))

    def cases(self) -> Iterator[Case]:
        """Yield a case for each way."""
        for way in (Way(*values) for values in product(self.families, self.sockets, self.entries)):

            def make(bench: Bench, way: Way = way) -> Run:
                return self.make(bench, way)

            expected = tuple(self.expected(way))
            row = self.rows.get(way.entry, self.row)
            yield Case(self.what, way, make, expected, row, self.lost(way), self.per_syn, self.by_peer)


def run_all(bench: Bench, cases: Iterable[Case], workers: int = 32) -> dict[str, Run]:
    """Make cases side by side, since many only wait; the runs are keyed by the names of their cells."""

    def run(case: Case) -> Run:
        try:
            return case.make(bench)
        except AbsentError as error:
            return Run(0, _NOWHERE, (), 0, None, None, absent=str(error))

    with ThreadPoolExecutor(workers) as pool:
        futures = {case.name: pool.submit(run, case) for case in cases}
    return {name: future.result() for name, future in futures.items()}
