"""What each set of probes shows of each way in which a connect attempt can end, on one kernel.

A cell is a case with one kind of socket, of one family, by one entry of the kernel: ``no route|blocking|IPv4|32-bit``.
What it says is one of

    pass                what the agent says is right
    not visible: WHY    the set cannot see it; the agent says nothing of it, or less
    n/a: WHY            this machine has not what the case takes

and anything else that a run finds is wrong, and says how. A column is what one set showed on one kernel. Columns are
files, in ``docs/conformance/kernels``; ``docs/conformance.md`` is made of them (``tests/conformance``).
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from otel_connect.capture.hooks import ProbeSet, Sight
from tests.support.bench import Family, Run
from tests.support.case import Case, Expected
from tests.support.entries import RINGS
from tests.support.runtimes import Report

Attributes = Mapping[str, Any]

PASS, NOT_VISIBLE, NOT_APPLICABLE, WRONG = "pass", "not visible: ", "n/a: ", "wrong: "
RETRANSMITS = "otel_connect.syn.retransmits"
REMEDY = "`make conformance` writes the page of this run"
FOLDER = Path(__file__).parents[2] / "docs/conformance/kernels"


class Column(NamedTuple):
    """What one set of probes showed on one kernel."""

    kernel: str
    probes: ProbeSet
    commit: str
    """The revision of the project, abbreviated."""
    date: str
    cells: Mapping[str, str]

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return FOLDER / f"{self.kernel}-{self.probes}.json"

    def written(self) -> str:
        """Return the text of the file."""
        about = {"kernel": self.kernel, "set": self.probes, "commit": self.commit, "date": self.date}
        return json.dumps(about | {"cells": dict(sorted(self.cells.items()))}, indent=1, ensure_ascii=False) + "\n"


def read_column(text: str) -> Column:
    """Read what ``written`` has made."""
    made = json.loads(text)
    return Column(made["kernel"], ProbeSet(made["set"]), made["commit"], made["date"], made["cells"])


def read_columns(folder: Path = FOLDER) -> list[Column]:
    """Read all there are, the newest kernel first, and of each kernel the set that sees most."""
    columns = [read_column(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return sorted(columns, key=lambda column: (_numbers(column.kernel), column.probes.calls), reverse=True)


def kernel_name(release: str) -> str:
    """Name a kernel by its version, and the number of a distribution's build: without flavour and local names."""
    found = re.match(r"\d+(\.\d+)*(-\d+)?", release)
    return found[0] if found else release


def series(kernel: str) -> tuple[int, ...]:
    """Return the two numbers by which a kernel's features go."""
    return _numbers(kernel)[:2]


def _numbers(kernel: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", kernel)))


def status(case: Case, run: Run, records: Sequence[Attributes], sight: Sight) -> str:
    """Say what goes into a cell: what became of the attempts of a case, against what probes that see so much said."""
    if run.absent:
        return f"{NOT_APPLICABLE}{run.absent}"
    wrong = difference(case, run, records)
    lost = case.unseen(sight)
    if wrong and lost and tuple(map(_said, records)) == lost.said:
        return f"{NOT_VISIBLE}{lost.why}"
    return f"{WRONG}{wrong}" if wrong else PASS


def difference(case: Case, run: Run, records: Sequence[Attributes]) -> str:
    """Say what is first found wrong with what is recorded of a case, in the order in which its attempts began."""
    wanted = case.expected * len(records) if case.per_syn else case.expected
    said = [_said(record) for record in records]
    unknown = [
        _UNKNOWN if one.or_unknown and had == _UNKNOWN else one.said for one, had in zip(wanted, said, strict=False)
    ]
    if len(said) != len(wanted) or said != unknown:
        return f"it says {said}, not {[one.said for one in wanted]}"
    reports = run.reports if len(run.reports) == len(wanted) else (None,) * len(wanted)
    if run.exit_code >= 0 and wanted and reports[0] is None and not case.per_syn:
        return f"the client reports {len(run.reports)} attempts"
    for record, one, report in zip(records, wanted, reports, strict=True):
        for wrong in chain(_facts(case, run, record, one), _client(case, record, report) if report else ()):
            return wrong
    return _syns(wanted, records, run)


_UNKNOWN = ("unknown", None)


def _said(record: Attributes) -> tuple[str, str | None]:
    outcome: str = record["otel_connect.outcome"]
    return outcome, record.get("otel_connect.errno.name")


def _facts(case: Case, run: Run, record: Attributes, expected: Expected) -> Iterator[str]:
    """Compare a record with what is known from how the attempt was made."""
    wanted: dict[str, object] = {"otel_connect.blocking": expected.blocking, **expected.attributes}
    if expected.syn_sent and expected.syn_retransmits is not None:
        wanted[RETRANSMITS] = expected.syn_retransmits
    if expected.errno_name not in {"EFAULT", "EAFNOSUPPORT"} and len(case.expected) == 1:
        wanted["network.peer.address"] = run.target.address
        wanted["network.type"] = "ipv6" if case.way.family is Family.IPV6 else "ipv4"
        if run.target.port:
            wanted["network.peer.port"] = run.target.port
    for name, value in wanted.items():
        if record.get(name) != value:
            yield f"{name} is {record.get(name)}, not {value}"
    if record["otel_connect.duration"] < 0:
        yield "it ends before it begins"


def _client(case: Case, record: Attributes, report: Report) -> Iterator[str]:
    """Compare a record with what the client says of the same attempt."""
    ring = case.way.entry in RINGS
    if report.result == "error" and report.errno != record.get("otel_connect.errno.code", report.errno):
        yield f"the client has the errno {report.errno_name}"
    if report.local_port and record.get("network.local.port", report.local_port) != report.local_port:
        yield f"the client has port {report.local_port}, not {record['network.local.port']}"
    # The program measures around the call, so the kernel's time is never the longer one; io_uring tells it ahead.
    if (
        report.seconds is not None
        and report.blocking
        and not ring
        and record["otel_connect.duration"] > report.seconds + 0.005
    ):
        yield f"it took {record['otel_connect.duration']} s, for the client {report.seconds} s"


def _syns(expected: Sequence[Expected], records: Sequence[Attributes], run: Run) -> str:
    """Compare the SYNs that the records tell of with those that came to the scripted peer."""
    if run.syns is None:
        return ""
    sent = sum(
        1 + record.get(RETRANSMITS, 0)
        for one, record in zip(expected, records, strict=True)
        if one.syn_sent and not one.elsewhere
    )
    return "" if run.syns == sent else f"{run.syns} SYNs came, not {sent}"


def published(column: Column, folder: Path = FOLDER) -> Column | None:
    """Return the column of the page for the same set on a kernel of the same series; ``None`` if it has none."""
    alike = [
        one
        for one in read_columns(folder)
        if (one.probes, series(one.kernel)) == (column.probes, series(column.kernel))
    ]
    return alike[0] if alike else None


def differences(measured: Column, said: Column | None, names: Collection[str]) -> Iterator[str]:
    """Yield what is wrong in the cells of these names, and where the page says something else; one line for each."""
    for name in sorted(names):
        found = measured.cells[name]
        if found.startswith(WRONG):
            yield f"{measured.probes}, {name}: {found}"
        elif said and said.cells.get(name) != found:
            page = f"docs/conformance.md says {said.cells.get(name)!r}"
            yield f"{measured.probes}, {name}: {page}, this run {found!r}; {REMEDY}"
