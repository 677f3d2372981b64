"""The last words of a live view: what became of the attempts, which were slow, which failed, what was lost.

A peer is what the programs meant to reach: a name and a port where a name was observed, else an address and a port. So
the servers behind one name count together, and names that share one address do not.

Memory is bounded: the first peers get a tally each, all later ones share one, so that every total stays
exact however many peers there are.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from otel_connect.model import Attempt, Balance, Outcome, Verdict
from otel_connect.serve import text
from otel_connect.serve.console import errno_text, peer, shortened

OTHER_PEERS = "other peers"

_TOP = 5
_NAME_CELLS = 40
_KINDS, _KINDS_CELLS = 3, 80  # of failures named for one peer, and the room for them
_NOT_FAILED = frozenset({Outcome.ESTABLISHED, Outcome.PENDING, Outcome.UNKNOWN})


class Tally:
    """The attempts towards one peer, or towards all the other peers."""

    __slots__ = ("address", "attempts", "failures", "named", "several", "slowest_by", "slowest_ns")

    def __init__(self) -> None:
        self.attempts = 0
        self.failures: Counter[Verdict] = Counter()
        self.slowest_ns = -1
        """The longest time an established attempt took; -1 before there is one."""
        self.slowest_by = ""
        self.named = False
        """The peer goes by a name, so that its addresses are worth a word."""
        self.address: str | None = None
        """The first of its addresses."""
        self.several = False
        """There are more."""

    def add(self, attempt: Attempt) -> None:
        """Count one attempt."""
        address, _ = attempt.event.target
        self.several = self.several or (self.attempts > 0 and address != self.address)
        self.address = self.address if self.attempts else address
        self.named = attempt.named.server is not None
        self.attempts += 1
        outcome = attempt.verdict.outcome
        # Losing a race between addresses is how parallel dialling works: no failure of the peer.
        if outcome not in _NOT_FAILED and not attempt.superseded:
            self.failures[attempt.verdict] += 1
        elif outcome is Outcome.ESTABLISHED and (attempt.event.duration_ns or 0) > self.slowest_ns:
            self.slowest_ns = attempt.event.duration_ns or 0
            name = attempt.process.executable_name or attempt.event.comm
            self.slowest_by = f"{text.safe(name)}[{attempt.event.pid}]"


class Summary:
    """Accumulates attempts; ``max_peers`` bounds how many peers are told apart."""

    def __init__(self, *, max_peers: int = 4096) -> None:
        self._max_peers = max_peers
        self.outcomes: Counter[Outcome] = Counter()
        self.superseded = 0
        self.peers: dict[tuple[str, bool], Tally] = {}
        """By what the peer is called, and whether that is a name: one may look like an address."""
        self.other_peers = Tally()

    def add(self, attempts: Iterable[Attempt]) -> None:
        """Count the attempts of one batch."""
        for attempt in attempts:
            self.outcomes[attempt.verdict.outcome] += 1
            self.superseded += attempt.superseded
            self._tally(attempt).add(attempt)

    @property
    def attempts(self) -> int:
        """All attempts counted so far."""
        return self.outcomes.total()

    def named_tallies(self) -> list[tuple[str, Tally]]:
        """Return every tally under the name a person knows it by."""
        tallies = [(_called(name, tally), tally) for (name, _), tally in self.peers.items()]
        return [*tallies, (OTHER_PEERS, self.other_peers)]

    def _tally(self, attempt: Attempt) -> Tally:
        key = (peer(attempt), attempt.named.server is not None)
        tally = self.peers.get(key)
        if tally is None:
            if len(self.peers) >= self._max_peers:
                return self.other_peers
            tally = self.peers[key] = Tally()
        return tally


def _called(name: str, tally: Tally) -> str:
    """Write a peer with the address behind its name."""
    if not tally.named:
        return name
    address = text.ABSENT if tally.address is None else text.safe(tally.address)
    return f"{shortened(name, _NAME_CELLS)} ({address}{', …' if tally.several else ''})"


def render(summary: Summary, balance: Balance) -> list[str]:
    """Return the summary as lines of plain text, ending with the balance."""
    if not summary.attempts:
        seen_none = "no attempts seen: no program on this host opened a TCP connection meanwhile"
        hint = "to see some, run `make demo` in another terminal"
        return [*([] if balance.seen else [seen_none, hint]), *_balance(balance)]
    tallies = summary.named_tallies()
    sections = (_outcomes(summary), _slowest(tallies), _worst(tallies), _balance(balance))
    return [line for section in sections if section for line in ("", *section)][1:]


def _outcomes(summary: Summary) -> list[str]:
    total = summary.attempts
    rows = [
        [f"  {outcome}", str(count), _percentage(count, total), _superseded(summary, outcome)]
        for outcome, count in sorted(summary.outcomes.items(), key=lambda item: (-item[1], item[0]))
    ]
    peers = f"{len(summary.peers)}{' or more' if summary.other_peers.attempts else ''}"
    title = f"{total} {_plural('attempt', total)} to {peers} {_plural('peer', len(summary.peers))}"
    return [title, *_align(rows, right=(1, 2))]


def _slowest(tallies: Sequence[tuple[str, Tally]]) -> list[str]:
    established = [(name, tally) for name, tally in tallies if tally.slowest_ns >= 0]
    top = sorted(established, key=lambda item: -item[1].slowest_ns)[:_TOP]
    rows = [[f"  {name}", text.duration(tally.slowest_ns), f"by {tally.slowest_by}"] for name, tally in top]
    return ["slowest to be established", *_align(rows, right=(1,))] if rows else []


def _worst(tallies: Sequence[tuple[str, Tally]]) -> list[str]:
    failing = [(name, tally, tally.failures.total()) for name, tally in tallies if tally.failures]
    top = sorted(failing, key=lambda item: -item[2])[:_TOP]
    rows = [[f"  {name}", f"{failed} of {tally.attempts}", _reasons(tally.failures)] for name, tally, failed in top]
    return ["most failures", *_align(rows, right=(1,))] if rows else []


def _reasons(failures: Counter[Verdict]) -> str:
    """Name the failures of one peer, the most frequent first, counted where there are several kinds."""
    if len(failures) == 1:
        return _named(next(iter(failures)))
    kinds: list[str] = []
    rest = failures.total()
    for verdict, count in failures.most_common(_KINDS):
        kind = f"{count} {_named(verdict)}"
        if len(", ".join([*kinds, kind])) > _KINDS_CELLS:
            break
        kinds.append(kind)
        rest -= count
    return ", ".join([*kinds, *([f"{rest} others"] if rest else [])])


def _named(verdict: Verdict) -> str:
    return verdict.outcome if verdict.errno is None else f"{verdict.outcome} {errno_text(verdict.errno)}"


def account_line(balance: Balance) -> str:
    """Say in one line where every attempt is."""
    lost, pending = sum(balance.lost.values()), balance.in_progress + balance.in_ring + balance.waiting
    terms = f"shown {balance.shown} + in progress {pending} + lost {lost}"
    if balance.difference:
        return f"seen {balance.seen} ≠ {terms}: {balance.difference:+} unaccounted for, please report this"
    return f"seen {balance.seen} = {terms}"


def _balance(balance: Balance) -> list[str]:
    by_count = sorted(balance.lost.items(), key=lambda item: -item[1])
    rows = [[f"  {reason}", str(count)] for reason, count in by_count if count]
    lines = [account_line(balance), *(["lost, by reason", *_align(rows, right=(1,))] if rows else [])]
    if balance.probe_missed:
        lines.append(f"probes skipped by the kernel at most {balance.probe_missed} times: see docs/troubleshooting.md")
    return lines


def _superseded(summary: Summary, outcome: Outcome) -> str:
    if outcome is not Outcome.ABANDONED or not summary.superseded:
        return ""
    return f"{summary.superseded} of them superseded (another address answered first)"


def _percentage(count: int, total: int) -> str:
    """Return a share in percent that never rounds something to nothing, nor nearly all to all."""
    tenths = round(1000 * count / total)
    if tenths == 0:
        return "<0.1 %"
    if tenths == 1000 and count < total:
        return ">99.9 %"
    return f"{tenths / 10:.1f} %"


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def _align(rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> list[str]:
    """Lay rows out as columns two spaces apart."""
    widths = [max(map(text.width, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.pad(cell, widths[index], right=index in right) for index, cell in enumerate(row)).rstrip()
        for row in rows
    ]
