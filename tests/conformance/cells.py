"""What stands in one place of a table: the cells of a case and an entry, of all families, sockets, kernels and sets."""

from collections.abc import Sequence

from tests.support.case import Case
from tests.support.conformance import NOT_APPLICABLE, NOT_VISIBLE, PASS, Column

NOT_RUN = "not run"


class Reasons:
    """Numbers reasons in the order in which they come."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def number(self, reason: str) -> int:
        """Return the number of a reason."""
        if reason not in self.found:
            self.found.append(reason)
        return self.found.index(reason) + 1


def cell(cases: Sequence[Case], columns: Sequence[Column], reasons: Reasons) -> str:
    """Say "pass" if that is so everywhere, else where it is not, by sets and kernels and by families and sockets."""
    found: dict[tuple[str, str], list[Column]] = {}
    for column in columns:
        by_status: dict[str, list[Case]] = {}
        for case in cases:
            by_status.setdefault(column.cells.get(case.name, NOT_RUN), []).append(case)
        for status, here in by_status.items():
            if status != PASS:
                found.setdefault((_short(status, reasons), _ways(here, cases)), []).append(column)
    parts = [_part(status, _where(there, columns), ways) for (status, ways), there in found.items()]
    passes = any(column.cells.get(case.name) == PASS for column in columns for case in cases)
    return "; ".join([PASS, *parts] if passes else parts)


def _part(status: str, where: str, ways: str) -> str:
    of = ", ".join(filter(None, (where, ways)))
    return f"{of}: {status}" if of else status


def _short(status: str, reasons: Reasons) -> str:
    for beginning, word in ((NOT_VISIBLE, "not visible"), (NOT_APPLICABLE, "n/a")):
        if status.startswith(beginning):
            return f"{word} [{reasons.number(status.removeprefix(beginning))}]"
    return status


def _where(there: Sequence[Column], columns: Sequence[Column]) -> str:
    """Name the columns: not at all if these are all, by sets or by kernels if they are all of these."""
    if len(there) == len(columns):
        return ""
    sets = list(dict.fromkeys(column.probes for column in there))
    if len(there) == sum(column.probes in sets for column in columns):
        return ", ".join(f"`{one}`" for one in sets)
    kernels = list(dict.fromkeys(column.kernel for column in there))
    if len(there) == sum(column.kernel in kernels for column in columns):
        return ", ".join(kernels)
    return ", ".join(f"{column.kernel} `{column.probes}`" for column in there)


def _ways(here: Sequence[Case], cases: Sequence[Case]) -> str:
    """Name the families and sockets: not at all if these are all of the place."""
    if len(here) == len(cases):
        return ""
    families = list(dict.fromkeys(case.way.family for case in here))
    sockets = list(dict.fromkeys(case.way.blocking for case in here))
    words = []
    if len(families) < len({case.way.family for case in cases}):
        words += [family.value for family in families]
    if len(sockets) < len({case.way.blocking for case in cases}):
        words += ["blocking" if blocking else "non-blocking" for blocking in sockets]
    return ", ".join(words) or "partly"
