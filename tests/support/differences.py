"""Whether records are those of the attempts that were made: a multiset against a multiset."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.support.account import Expected, Key
from tests.support.answers import ESTABLISHED, UNKNOWN, End


class Difference(NamedTuple):
    """What does not agree: attempts without a record of theirs, and records without an attempt of theirs."""

    expected: list[Expected]
    recorded: list[tuple[Key, End]]

    @property
    def kinds(self) -> Counter[str]:
        """Count what is wrong by its kind."""
        kinds: Counter[str] = Counter()
        ends: dict[Key, list[frozenset[End | None]]] = defaultdict(list)
        for attempt in self.expected:
            ends[attempt.key].append(attempt.ends)
        for key, end in self.recorded:
            kinds[_wrong(ends[key].pop() if ends[key] else None, end)] += 1
        kinds["missing"] += sum(None not in one for left in ends.values() for one in left)
        return +kinds


def _wrong(permitted: frozenset[End | None] | None, end: End) -> str:
    if permitted is None:
        return "too many"
    if end == ESTABLISHED:
        return "false success"
    return "false failure" if permitted == {ESTABLISHED} else "wrong"


def compare(
    expected: Sequence[Expected], recorded: Sequence[tuple[Key, End]], hidden: Mapping[tuple[str, int], int]
) -> Difference:
    """Give each attempt one record that it permits, and return what is left over.

    ``hidden`` says how many attempts to each peer, by address and port, had an end that no probe could see: these
    are ``unknown`` or have no record.
    """
    left = Counter(recorded)
    unseen = Counter(hidden)
    unanswered: list[Expected] = []
    for attempt in sorted(expected, key=lambda one: len(one.ends)):  # those with a choice last
        found = next((end for end in attempt.ends if end and left[attempt.key, end] > 0), None)
        if found:
            left[attempt.key, found] -= 1
        elif unseen[attempt.key[1:]] > 0:
            unseen[attempt.key[1:]] -= 1
            left[attempt.key, UNKNOWN] -= left[attempt.key, UNKNOWN] > 0
        elif None not in attempt.ends:
            unanswered.append(attempt)
    return Difference(unanswered, sorted((+left).elements(), key=repr))
