"""Look-ups whose answers are not known: they may have told any address to whoever asked. Pure.

Whoever asked is a process, or all that are in a network namespace where nobody knows which. A name that is asked for
again, and now gets an answer that can be read, is no riddle any more.
"""

from collections.abc import Hashable
from typing import NamedTuple

from cachetools import LRUCache

from otel_connect.enrich.dns import Question

_SCOPES = 2048
_NAMES = 16  # of a scope and a kind; where there are more, the first of them stay open
_DAY_NS = 86_400 * 1_000_000_000
"""As long as a name is valid at the most."""


class _Open(NamedTuple):
    first: int
    last: int


class Unread:
    """Remembers, for a bounded number of those who asked, which look-ups are open."""

    def __init__(self) -> None:
        self._open: LRUCache[tuple[Hashable, int], dict[int | None, _Open]] = LRUCache(_SCOPES)

    def open(self, scope: Hashable, question: Question, at: int) -> None:
        """Take note that a question was asked, or got an answer that says nothing."""
        names = self._open.setdefault((scope, question.kind), {})
        name = hash(question.name)
        names[name] = _Open(names[name].first if name in names else at, at)
        if len(names) > _NAMES:
            oldest = next(one for one in names if one is not None)
            gone, known = names.pop(oldest), names.get(None)
            names[None] = _Open(known.first if known else gone.first, gone.last)

    def close(self, scope: Hashable, question: Question) -> None:
        """Take note that the addresses of a name are known now, or that it has none."""
        names = self._open.get((scope, question.kind))
        if names is not None:
            names.pop(hash(question.name), None)

    def latest(self, scope: Hashable, kind: int, at: int) -> int | None:
        """Return when what was open at a time was last asked for; ``None`` when nothing was."""
        names = self._open.get((scope, kind)) or {}
        return max((one.last for one in names.values() if one.first <= at <= one.last + _DAY_NS), default=None)
