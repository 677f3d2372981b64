"""Ends of attempts on a socket that has had another one, or whose errno is taken away."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from otel_connect.capture.hooks import ProbeSet
from tests.support.bench import Bench, Family, Run, Target
from tests.support.case import Expected, Lost, Subject, Way
from tests.support.ends import (
    ABANDONED,
    HASTY_MS,
    MAPPABLE,
    PATIENT_MS,
    REFUSED,
    SILENT,
    Where,
    local_error,
    scripted,
    unreachable,
)
from tests.support.entries import RINGS, WITH_CALL, Entry
from tests.support.peer import Answer

AT_ONCE = 0.002
"""Seconds: the call has let go of the socket, and the program is not asleep yet."""
ROUNDS = 20
AT_END = "the end of the call brings the errno"


def after(
    what: str,
    before: Where,
    where: Callable[[Bench, Family], tuple[Target, dict[str, object]]],
    expected: Callable[[Way], Sequence[Expected]],
    *,
    row: str,
    lost: Callable[[Way], Lost | None] = lambda _: None,
    options: Mapping[str, object] = {},
) -> Subject:
    """Make one on a socket that another attempt was made with before."""

    def make(bench: Bench, way: Way) -> Run:
        first = before(bench, way.family)
        target, more = where(bench, way.family)
        patience = {} if way.blocking else {"timeout": PATIENT_MS}
        known = {"before": f"{first.host}:{first.port}"}
        return bench.dial(target, way.entry, {**known, **patience, **more, **options})

    return Subject(what, row, make, expected, lost=lost)


def _second_attempts() -> Iterator[Subject]:
    """Yield the attempts on a socket that has an errno, an ICMP error or a port of an earlier one."""
    refuse, no_errno = scripted(Answer.REFUSE), ("local_error", None)
    yield after(
        "same socket again",
        refuse,
        lambda bench, family: (refuse(bench, family), {}),
        lambda way: [REFUSED._replace(elsewhere=True, syn_retransmits=None), REFUSED._replace(blocking=way.blocking)],
        row="RST, blocking",
    )
    at_end = "blocking sockets: nobody gives up while the call waits"
    for what, row, families, other in (
        ("ICMP", "given up, with the ICMP error of an earlier attempt", MAPPABLE, "IPv6: the next case"),
        ("ICMPv6", "given up, with the ICMPv6 error of an earlier attempt", (Family.IPV6,), "IPv4: the case before"),
    ):
        yield Subject(
            f"given up, {what} error before",
            row,
            _after_icmp,
            _after_icmp_expected,
            families,
            sockets=(False,),
            without=(at_end, other),
        )
    yield after(
        "no port left, undone before",
        SILENT,
        _occupied("bind"),
        lambda way: [
            ABANDONED._replace(blocking=False, elsewhere=True),
            local_error("EADDRNOTAVAIL")._replace(blocking=way.blocking),
        ],
        row="no port left",
        lost=lambda _: Lost((ABANDONED.said, no_errno), "recorded without its errno"),
        options={"undone": 1},
    )
    yield after(
        "no port left, refused before",
        Bench.closed,
        _occupied("ports"),
        lambda way: [
            REFUSED._replace(elsewhere=True),
            local_error("EADDRNOTAVAIL")._replace(blocking=way.blocking, attributes={"network.local.port": None}),
        ],
        row="no port left",
        lost=lambda _: Lost((REFUSED.said, no_errno), "recorded without its errno"),
    )


def _occupied(option: str) -> Callable[[Bench, Family], tuple[Target, dict[str, object]]]:
    def where(bench: Bench, family: Family) -> tuple[Target, dict[str, object]]:
        target, port = bench.occupied(family)
        return target, {option: port}

    return where


def _after_icmp(bench: Bench, way: Way) -> Run:
    first, target = bench.routed(way.family, "prohibit"), SILENT(bench, way.family)
    patience = {"limit": HASTY_MS, "timeout": 1} if way.entry in RINGS else {"timeout": HASTY_MS, "at_once": 1}
    return bench.dial(target, way.entry, {"before": f"{first.host}:{first.port}", **patience})


def _after_icmp_expected(way: Way) -> Sequence[Expected]:
    """Of ICMPv6 the second attempt would show no more if the error had come again."""
    six = way.family is Family.IPV6
    first = unreachable("EACCES" if six else "EHOSTUNREACH")._replace(syn_retransmits=None, elsewhere=True)
    return [first, ABANDONED._replace(outcome="unknown" if six else "abandoned", blocking=False)]


def _taken_at_once() -> Iterator[Subject]:
    """Yield the programs that take the errno from the socket before its state changes."""
    for what, answer, expected, row in (
        ("errno taken at once", Answer.REFUSE, REFUSED, "RST, its error taken by SO_ERROR"),
        (
            "ICMP error taken at once",
            Answer.HOST_UNREACHABLE,
            unreachable("EHOSTUNREACH"),
            "ICMP, its error taken by SO_ERROR",
        ),
    ):

        def wanted(way: Way, expected: Expected = expected, icmp: bool = answer is not Answer.REFUSE) -> list[Expected]:
            six = way.family is Family.IPV6
            return [expected._replace(blocking=False, or_unknown=icmp and six)] * ROUNDS

        def make(bench: Bench, way: Way, answer: Answer = answer) -> Run:
            target = scripted(answer, AT_ONCE)(bench, way.family)
            return bench.dial(target, way.entry, {"spin": 1, "rounds": ROUNDS, "timeout": PATIENT_MS})

        why = (f"blocking sockets: {AT_END}", f"io_uring: {AT_END}")
        yield Subject(what, row, make, wanted, sockets=(False,), entries=WITH_CALL, without=why)


def _taken_in_call() -> Iterator[Subject]:
    """Yield the program that takes the ICMP error which came while its call held the socket."""

    def make(bench: Bench, way: Way) -> Run:
        return bench.dial(bench.routed(way.family, "unreachable"), way.entry, {"spin": 1, "timeout": PATIENT_MS})

    def wanted(way: Way) -> list[Expected]:
        errno_name = "ENETUNREACH" if way.family is Family.IPV6 else "EHOSTUNREACH"
        return [unreachable(errno_name)._replace(blocking=False, syn_retransmits=None)]

    def lost(way: Way) -> Lost | None:
        if way.family is not Family.IPV6:
            return None
        sent_later = frozenset(ProbeSet) if way.entry is Entry.DEFERRED else frozenset[ProbeSet]()
        return Lost((ABANDONED.said,), "recorded as abandoned: ICMPv6 leaves no other trace", sent_later)

    yield Subject(
        "ICMP error of the call taken",
        "ICMP while connect() holds the socket, then closed",
        make,
        wanted,
        sockets=(False,),
        entries=WITH_CALL,
        without=(f"blocking sockets: {AT_END}", f"io_uring: {AT_END}"),
        lost=lost,
    )


HISTORIES = (*_second_attempts(), *_taken_at_once(), *_taken_in_call())
