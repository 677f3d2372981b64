"""The live view: aligned for a person, plain for a pipe, deaf to what processes call themselves."""

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, timedelta, timezone, tzinfo
from errno import EADDRNOTAVAIL, EHOSTUNREACH, ENOSPC, ETIMEDOUT
from socket import AF_INET6
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.model import Attempt, Outcome, ServerName
from otel_connect.serve import text
from otel_connect.serve.console import ConsoleOutput, colour_wanted, errno_text, terminal_width
from otel_connect.serve.lines import Lines
from tests.support.events import make_attempt

LOCAL6 = "2001:db8:b6c0:1d00:a9b3:1c2f:88d1:4f2e"
PEER6 = "2001:db8:4001:82a::200e"
SHOP = ServerName("shop.example", "dns", "process")


class FakeTerminal(io.StringIO):
    """Says that it is a terminal, without being one that has a size."""

    def isatty(self) -> bool:
        return True


class FakeClosedPipe(io.BytesIO):
    """A pipe whose reader has gone."""

    def write(self, data: Any, /) -> int:
        del data
        raise BrokenPipeError


class CountingStream(io.BytesIO):
    """Counts how often it is written to."""

    writes = 0

    def write(self, data: Any, /) -> int:
        self.writes += 1
        return super().write(data)


def established(**changes: Any) -> Attempt:
    return make_attempt(**({"outcome": Outcome.ESTABLISHED, "errno": None} | changes))


def by_ipv6(**changes: Any) -> Attempt:
    addresses = {"family": int(AF_INET6), "local_address": LOCAL6, "peer_address": PEER6}
    return established(**(addresses | changes))


def abandoned(**changes: Any) -> Attempt:
    return make_attempt(**({"outcome": Outcome.ABANDONED, "errno": None} | changes))


def console_on(stream: io.BytesIO, *, encoding: str = "utf-8", zone: tzinfo = UTC) -> ConsoleOutput:
    return ConsoleOutput(Lines(stream, encoding=encoding), colour=False, width=lambda: None, zone=zone)


def lines(*batches: Sequence[Attempt], colour: bool = False, width: int | None = None) -> list[str]:
    return lines_of([(width, batch) for batch in batches], colour=colour)


def lines_of(batches: Sequence[tuple[int | None, Sequence[Attempt]]], *, colour: bool = False) -> list[str]:
    """Show each batch on a terminal that has this width at the time."""
    widths = iter([width for width, _ in batches])
    stream = io.BytesIO()
    console = ConsoleOutput(Lines(stream), colour=colour, width=lambda: next(widths), zone=UTC)
    for _, batch in batches:
        assert console.write(batch) == 0
    return stream.getvalue().decode().split("\n")[:-1]


def starts(line: str, *values: str) -> list[int]:
    """Return the cell in which each value starts; values are looked for from left to right."""
    found, behind = [], 0
    for value in values:
        behind = line.index(value, behind)
        found.append(text.width(line[:behind]))
        behind += len(value)
    return found


VARIED = (
    established(duration_ns=83_000, executable_name="python3.11", comm="gunicorn: worke"),
    make_attempt(),
    make_attempt(outcome=Outcome.TIMED_OUT, errno=ETIMEDOUT, duration_ns=31_000_000_000, pid=4_194_303),
    make_attempt(outcome=Outcome.UNREACHABLE, errno=EHOSTUNREACH, duration_ns=3_080_000_000, owner=None),
    make_attempt(outcome=Outcome.LOCAL_ERROR, errno=EADDRNOTAVAIL, duration_ns=12_000, local_address=None),
    abandoned(duration_ns=250_000_000, superseded=True),
    make_attempt(outcome=Outcome.PENDING, errno=None, duration_ns=None, peer_port=65535),
)


GOLDEN = """\
TIME             PID PROCESS         OUTCOME     ERRNO         DURATION  PEER
22:13:20.123    4242 python3.11      established                  83 µs  10.1.2.80:443
22:13:20.123    4242 curl            refused     ECONNREFUSED    0.4 ms  10.1.2.80:443
22:13:20.123 4194303 curl            timed_out   ETIMEDOUT         31 s  10.1.2.80:443
22:13:20.123    4242 curl            unreachable EHOSTUNREACH     3.1 s  10.1.2.80:443
22:13:20.123    4242 curl            local_error EADDRNOTAVAIL    12 µs  10.1.2.80:443
22:13:20.123    4242 curl            abandoned   (superseded)    250 ms  10.1.2.80:443
22:13:20.123    4242 curl            pending                          –  10.1.2.80:65535
"""


def test_golden_lines() -> None:
    assert lines(VARIED, width=100) == GOLDEN.splitlines()


def test_a_pipe_gets_every_column() -> None:
    header, first, *_, last = lines(VARIED[:4])
    columns = starts(header, "PROCESS", "COMM", "USER", "OUTCOME", "LOCAL", "ADDRESS", "PEER")
    assert starts(first, "python3.11", "gunicorn: worke", "alice", "established", "10.1.2.3", "10.1.2.80", "10.1.2.80:")
    assert starts(last, "curl", "curl", "1001", "unreachable", "10.1.2.3", "10.1.2.80", "10.1.2.80:443") == columns


def test_golden_lines_at_80_columns() -> None:
    named = make_attempt(server=ServerName("db.example", "dns", "process", 5432))
    batch = [*VARIED[:2], VARIED[4], named, abandoned(superseded=True)]
    assert lines(batch, width=80) == [
        "    PID PROCESS      OUTCOME     ERRNO         DURATION  PEER",
        "   4242 python3.11   established                  83 µs  10.1.2.80:443",
        "   4242 curl         refused     ECONNREFUSED    0.4 ms  10.1.2.80:443",
        "   4242 curl         local_error EADDRNOTAVAIL    12 µs  10.1.2.80:443",
        "   4242 curl         refused     ECONNREFUSED    0.4 ms  db.example:5432",
        "   4242 curl         abandoned   (superseded)    0.4 ms  10.1.2.80:443",
    ]


def test_golden_lines_at_60_columns() -> None:
    named = make_attempt(server=ServerName("replica-17.db.example", "dns", "process"))
    assert lines([VARIED[0], named, abandoned(superseded=True)], width=60) == [
        "    PID PROCESS    OUTCOME     DURATION  PEER",
        "   4242 python3.11 established    83 µs  10.1.2.80:443",
        "   4242 curl       refused       0.4 ms  replica-17.db.…:443",
        "   4242 curl       superseded    0.4 ms  10.1.2.80:443",
    ]


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (60, "PID PROCESS OUTCOME DURATION PEER"),
        (73, "PID PROCESS OUTCOME DURATION PEER"),
        (74, "PID PROCESS OUTCOME ERRNO DURATION PEER"),
        (80, "PID PROCESS OUTCOME ERRNO DURATION PEER"),
        (90, "PID PROCESS OUTCOME ERRNO DURATION PEER"),
        (91, "TIME PID PROCESS OUTCOME ERRNO DURATION PEER"),
        (100, "TIME PID PROCESS OUTCOME ERRNO DURATION PEER"),
        (118, "TIME PID PROCESS OUTCOME ERRNO DURATION PEER"),
        (119, "TIME PID PROCESS OUTCOME ERRNO DURATION ADDRESS PEER"),
        (134, "TIME PID PROCESS OUTCOME ERRNO DURATION ADDRESS PEER"),
        (135, "TIME PID PROCESS OUTCOME ERRNO DURATION LOCAL ADDRESS PEER"),
        (143, "TIME PID PROCESS OUTCOME ERRNO DURATION LOCAL ADDRESS PEER"),
        (144, "TIME PID PROCESS USER OUTCOME ERRNO DURATION LOCAL ADDRESS PEER"),
        (159, "TIME PID PROCESS USER OUTCOME ERRNO DURATION LOCAL ADDRESS PEER"),
        (160, "TIME PID PROCESS COMM USER OUTCOME ERRNO DURATION LOCAL ADDRESS PEER"),
        (200, "TIME PID PROCESS COMM USER OUTCOME ERRNO DURATION LOCAL ADDRESS PEER"),
    ],
)
def test_what_a_terminal_has_room_for(width: int, shown: str) -> None:
    header, *_ = lines([make_attempt(server=ServerName("a.example", "dns", "process"))], width=width)
    assert " ".join(header.split()) == shown


def test_the_columns_of_tcpv4connect_are_there_in_its_order() -> None:
    header, line = lines([make_attempt(comm="worker", pid=77)])
    starts(header, "PID", "COMM", "LOCAL", "ADDRESS", "PEER")
    starts(line, "77", "worker", "10.1.2.3", "10.1.2.80", "10.1.2.80:443")


@pytest.mark.parametrize("width", [None, 240])
def test_ipv4_and_ipv6_stay_aligned_where_there_is_room(width: int | None) -> None:
    ipv6, ipv4 = by_ipv6(server=SHOP), established(server=SHOP)
    *_, header, first, second = lines([ipv6, ipv4], width=width)
    columns = starts(header, "LOCAL", "ADDRESS", "PEER")
    assert starts(first, LOCAL6, PEER6, "shop.example:443") == columns
    assert starts(second, "10.1.2.3", "10.1.2.80", "shop.example:443") == columns


def test_the_first_ipv6_address_widens_the_columns_for_good_and_repeats_the_header() -> None:
    ipv6, ipv4 = by_ipv6(), established()
    shown = lines([ipv4], [ipv6], [ipv4], width=240)
    assert [line.split()[0] for line in shown].count("TIME") == 2
    assert starts(shown[1], "10.1.2.80") < starts(shown[2], "PEER") == starts(shown[4], "10.1.2.80")


def by_name(name: str = "shop.example", **changes: Any) -> Attempt:
    return established(server=ServerName(name, "dns", "process"), **changes)


def test_the_first_name_opens_a_column_for_the_address_behind_it() -> None:
    before, _, header, named, after = lines([established()], [by_name()], [established()], width=120)
    assert "ADDRESS" not in before
    assert starts(named, "10.1.2.80", "shop.example:443") == starts(header, "ADDRESS", "PEER")
    assert starts(after, "10.1.2.80", "10.1.2.80:443") == starts(header, "ADDRESS", "PEER")
    assert "LOCAL" not in header  # says less


def test_a_name_is_cut_by_the_terminal_alone_and_keeps_its_port() -> None:
    long = "a." * 100 + "example"
    for width in (60, 80, 100, 120, 200):
        *_, shown = lines([by_name(long)], width=width)
        assert text.width(shown) == width
        assert shown.endswith("…:443")
    assert lines([by_name(long)])[-1].endswith(f" {long}:443")


def test_the_port_beside_a_name_is_the_one_that_was_asked_for() -> None:
    rewritten = established(server=ServerName("svc.example", "dns", "process", 80), peer_port=30080)
    assert lines([rewritten], width=80)[-1].endswith(" svc.example:80")


def test_a_resized_terminal_is_followed_with_a_new_header() -> None:
    batch = [make_attempt()]
    shown = lines_of([(80, batch), (80, batch), (200, batch), (60, batch), (62, batch), (None, batch)])
    headers = [line.split() for line in shown if "PEER" in line]
    assert [len(header) for header in headers] == [6, 10, 5]  # 62 cells have room for nothing further
    assert len(shown) == 3 + 6


def test_a_hostile_name_of_a_server_is_harmless() -> None:
    line = lines([by_name("\x1b]0;owned\x07\u202e\n")])[-1]
    assert text.safe(line) == line


def test_a_pipe_gets_one_header() -> None:
    shown = lines([established()], [by_ipv6()], [established()])
    assert sum(line.startswith("TIME") for line in shown) == 1


@pytest.mark.parametrize("width", [60, 80, 100])
def test_an_ipv6_peer_is_whole_and_moves_nothing(width: int) -> None:
    ipv6, ipv4 = by_ipv6(), established()
    header, *shown = lines([ipv4], [ipv6], [ipv4], width=width)
    assert shown[0] == shown[2]
    assert starts(shown[1], f"[{PEER6}]") == starts(header, "PEER")
    assert shown[1].endswith(f"[{PEER6}]:443")


@given(st.integers(0, 250), st.sampled_from(["ipv4", "ipv6", "named"]))
def test_no_layout_is_wider_than_the_terminal(width: int, kind: str) -> None:
    make = by_ipv6 if kind == "ipv6" else established
    server = ServerName("x" * 300, "dns", "process") if kind == "named" else None
    attempts = [make(peer_address="::1", peer_port=12345, executable_name="y" * 40, server=server)]
    assert max(map(text.width, lines(attempts, width=width))) <= max(width, 60)


@pytest.mark.parametrize(
    "name",
    [
        "[/]",
        "[bold red]x",
        "\x1b]0;owned\x07",
        "\x1b[2J\x9b1A",
        "\u202egpj.exe",
        "\u2067a\u2069",
        "a\nb\r\n",
        "\u2028\u2029\x85",
        "网" * 16,
        "e\u0301" * 8,
        "\u0301" * 16,
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\udcff\x00",
        "",
    ],
)
@pytest.mark.parametrize("colour", [False, True])
def test_hostile_names_are_harmless_and_keep_the_alignment(name: str, colour: bool) -> None:
    hostile = make_attempt(executable_name=name, comm=name, owner=name)
    header, line = lines([hostile], colour=colour)
    if colour:  # take away our own codes: the outcome's colour, the dimmed time, the bold header
        assert line.count("\x1b") == 4
        for code in ("\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m"):
            header, line = header.replace(code, ""), line.replace(code, "")
    assert text.safe(line) == line
    assert starts(line, "refused", "10.1.2.3") == starts(header, "OUTCOME", "LOCAL")


@given(st.binary(max_size=16))
def test_any_comm_takes_one_line(comm: bytes) -> None:
    name = comm.decode("utf-8", "backslashreplace")
    header, line = lines([make_attempt(executable_name=name, comm=name)])
    assert starts(line, "10.1.2.80", "10.1.2.80:443") == starts(header, "ADDRESS", "PEER")
    assert line.isprintable() or text.safe(line) == line


def test_without_colour_there_is_no_escape() -> None:
    assert not any("\x1b" in line for line in lines(VARIED, [by_ipv6()], width=120))


@pytest.mark.parametrize("outcome", Outcome)
def test_each_outcome_has_a_colour(outcome: Outcome) -> None:
    _, line = lines([make_attempt(outcome=outcome)], colour=True)
    colour = {"established": 32, "abandoned": 33, "pending": 33, "unknown": 33}.get(outcome, 31)
    assert f"\x1b[{colour}m{outcome}" in line


def test_colour_changes_nothing_else() -> None:
    plain, coloured = lines(VARIED), lines(VARIED, colour=True)
    for code in (0, 1, 2, 31, 32, 33):
        coloured = [line.replace(f"\x1b[{code}m", "") for line in coloured]
    assert coloured == plain


def test_a_superseded_attempt_is_dimmed_as_a_whole() -> None:
    _, line = lines([abandoned(superseded=True)], colour=True)
    assert line.startswith("\x1b[2m")
    assert line.endswith(":443\x1b[0m")
    assert line.count("\x1b") == 2


def test_the_header_comes_first_even_before_any_attempt() -> None:
    assert [line.split()[0] for line in lines([], [], [make_attempt()])] == ["TIME", "22:13:20.123"]


def test_the_time_is_that_of_the_zone() -> None:
    stream = io.BytesIO()
    console_on(stream, zone=timezone(timedelta(hours=5, minutes=30))).write([make_attempt()])
    assert b"\n03:43:20.123 " in stream.getvalue()


def test_the_comm_stands_in_for_an_unknown_executable() -> None:
    _, line = lines([make_attempt(executable_name="", comm="kworker")], width=80)
    assert "kworker" in line


def test_one_write_for_a_batch() -> None:
    stream = CountingStream()
    console = console_on(stream)
    console.write(VARIED)
    console.write([])
    assert stream.writes == 1


def test_a_closed_pipe_is_the_callers() -> None:
    with pytest.raises(BrokenPipeError):
        console_on(FakeClosedPipe()).write([make_attempt()])


def test_what_the_encoding_lacks_is_escaped() -> None:
    stream = io.BytesIO()
    console_on(stream, encoding="ascii").write([make_attempt(executable_name="naïve", local_address=None)])
    assert rb"na\xefve" in stream.getvalue()
    assert rb"\u2013" in stream.getvalue()


def pending(count: int, **changes: Any) -> list[Attempt]:
    return [
        make_attempt(outcome=Outcome.PENDING, errno=None, duration_ns=None, pid=pid, **changes) for pid in range(count)
    ]


def test_a_screenful_of_pending_attempts_has_a_line_each_and_more_have_one() -> None:
    assert len(lines(pending(20))) == 21
    many = [
        *pending(4000),
        *pending(200, server=SHOP),
        *pending(90, peer_port=1),
        *pending(9, peer_port=2),
        *pending(1, peer_port=3),
    ]
    header, first, last = lines([make_attempt(), *many], width=80)
    assert "PEER" in header
    assert "refused" in first
    assert last == (
        "4300 attempts still pending: 4000 to 10.1.2.80:443, 200 to shop.example:443, 90 to 10.1.2.80:1,"
        " 10 to 2 other peers"
    )


class Full(io.BytesIO):
    """A file on a disk that has room for so many bytes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data: Any, /) -> int:
        if self.room == 0:
            raise OSError(ENOSPC, "No space left on device")
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        return super().write(taken)


@given(st.integers(0, 2000), st.integers(0, 30), st.integers(0, 30))
def test_what_could_not_be_shown_is_counted_to_the_unit(room: int, singles: int, waiting: int) -> None:
    stream = Full(room)
    lost = console_on(stream).write([*(make_attempt() for _ in range(singles)), *pending(waiting)])
    whole = stream.getvalue().decode(errors="ignore").split("\n")[1:-1]  # but the header and what was torn off
    together = waiting if waiting > 20 and whole and "still pending" in whole[-1] else 0
    assert singles + waiting - lost == (len(whole) - 1 + together if together else len(whole))


def test_a_header_that_was_lost_comes_again() -> None:
    stream = Full(3)
    console = console_on(stream)
    assert console.write([make_attempt()]) == 1
    stream.room = 1 << 20
    assert console.write([make_attempt()]) == 0
    torn, header, line = stream.getvalue().decode().splitlines()
    assert (torn, header.split()[0], line.split()[0]) == ("TIM", "TIME", "22:13:20.123")


@pytest.mark.parametrize(
    ("terminal", "environ", "wanted"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_colour_is_for_terminals_and_never_forced(terminal: bool, environ: Mapping[str, str], wanted: bool) -> None:
    stream = FakeTerminal() if terminal else io.StringIO()
    assert colour_wanted(stream, environ) is wanted


def test_what_is_no_terminal_has_no_width() -> None:
    assert terminal_width(io.StringIO()) is None
    assert terminal_width(FakeTerminal()) == 80  # claims to be one, but has no descriptor to ask


def test_an_errno_is_shown_by_its_name_or_else_by_its_number() -> None:
    assert errno_text(111) == "ECONNREFUSED"
    assert errno_text(95) == "EOPNOTSUPP"
    assert errno_text(999) == "999"


def test_an_attempt_that_failed_before_it_had_a_peer_shows_what_was_asked_for() -> None:
    attempt = make_attempt(peer_address=None, peer_port=None, requested_address="192.0.2.9", requested_port=81)
    assert lines([attempt])[-1].split()[-2:] == ["192.0.2.9", "192.0.2.9:81"]
