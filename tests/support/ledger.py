"""The account an agent gives of itself when it stops, read from what it prints."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

_LINE = re.compile(
    r"\b(?P<signal>logs|metrics|traces): (?:seen|made) (?P<seen>\d+)(?: \+ recovered (?P<recovered>\d+))?"
    r" = exported (?P<exported>\d+) \+ queued (?P<queued>\d+) \+ dropped (?P<dropped>\d+)"
    r"(?: \((?P<reasons>[^()]*)\))?(?P<rest>.*)"
)
_SUMMARY = re.compile(r"\bseen (\d+) = shown (\d+) \+ in progress (\d+) \+ lost (\d+)$")


class ExitLedger(NamedTuple):
    """One signal's line: ``logs: seen 9 + recovered 2 = exported 8 + queued 1 + dropped 2 (sampled 2)``."""

    seen: int
    """Attempts the kernel counted; for metrics the data points that were made."""
    recovered: int
    exported: int
    queued: int
    dropped: Mapping[str, int]
    """By reason."""

    @classmethod
    def read(cls, line: re.Match[str]) -> Self:
        """Read a matching line, whose total of the dropped is that of the reasons and which complains of nothing."""
        reasons = dict(one.rsplit(" ", 1) for one in (line["reasons"] or "").split(", ") if one)
        dropped = {reason: int(count) for reason, count in reasons.items()}
        assert sum(dropped.values()) == int(line["dropped"]), line[0]
        assert "unaccounted" not in line["rest"], line[0]
        return cls(
            seen=int(line["seen"]),
            recovered=int(line["recovered"] or 0),
            exported=int(line["exported"]),
            queued=int(line["queued"]),
            dropped=dropped,
        )

    @property
    def difference(self) -> int:
        """Records without an explanation, by our own arithmetic."""
        return self.seen + self.recovered - self.exported - self.queued - sum(self.dropped.values())


def exit_ledgers(errors: Iterable[str]) -> dict[str, ExitLedger]:
    """Read the account of each signal from the standard error of an agent that sends; asserts that they add up."""
    ledgers = {found["signal"]: ExitLedger.read(found) for line in errors if (found := _LINE.search(line))}
    assert all(ledger.difference == 0 for ledger in ledgers.values()), ledgers
    return ledgers


def assert_balanced(output: Sequence[str], errors: Sequence[str]) -> None:
    """Assert that an agent that has ended well gave an account, and that it adds up to the unit."""
    summaries = [found for line in (*output, *errors) if (found := _SUMMARY.search(line))]
    ledgers = exit_ledgers(errors)
    assert summaries or {"logs", "traces"} <= ledgers.keys(), "the agent gave no account"
    for found in summaries:
        seen, *parts = map(int, found.groups())
        assert seen == sum(parts), found[0]
