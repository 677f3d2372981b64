import errno
from socket import AF_INET6
from typing import Any

import pytest
from hypothesis import given

from otel_connect.encode.attributes import (
    INFO,
    WARN,
    attempt_attributes,
    error_type,
    is_failure,
    severity,
    valid_text,
)
from otel_connect.encode.line import display_line, duration
from otel_connect.model import Attempt, Drops, Ending, Hook, Outcome, ServerName, Verdict
from tests.support.events import attempts, hostile_text, make_attempt

ESTABLISHED: dict[str, Any] = {"outcome": Outcome.ESTABLISHED, "errno": None}
# An attempt that failed before it sent anything: no peer, no local address, no SYN.
LOCAL: dict[str, Any] = {
    "outcome": Outcome.LOCAL_ERROR,
    "errno": errno.ENETUNREACH,
    "peer_address": None,
    "peer_port": None,
    "local_address": None,
    "local_port": None,
    "hooks": 9,
}


def attributes(**changes: Any) -> dict[str, Any]:
    pairs = attempt_attributes(make_attempt(**changes))
    assert len(dict(pairs)) == len(pairs)  # no name twice
    return dict(pairs)


def test_what_else_is_known_or_asked_for_of_a_process() -> None:
    shown = attributes(command="./curl", command_args=("./curl", "-v"), vpid=1, cgroup="0::/shop")
    assert dict(shown.items() - attributes().items()) == {
        "process.command": "./curl",
        "process.command_args": ("./curl", "-v"),
        "process.vpid": 1,
        "process.linux.cgroup": "0::/shop",
    }


def test_attributes_of_a_refused_attempt() -> None:
    assert attributes() == {
        "network.transport": "tcp",
        "network.type": "ipv4",
        "network.peer.address": "10.1.2.80",
        "network.peer.port": 443,
        "network.local.address": "10.1.2.3",
        "network.local.port": 45678,
        "server.address": "10.1.2.80",
        "server.port": 443,
        "error.type": "connection_refused",
        "process.pid": 4242,
        "process.creation.time": "2023-11-14T22:13:19.000001Z",
        "process.parent_pid": 1000,
        "process.executable.name": "curl",
        "process.executable.path": "/usr/bin/curl",
        "process.user.id": 1001,
        "process.owner": "alice",
        "otel_connect.outcome": "refused",
        "otel_connect.errno.code": 111,
        "otel_connect.errno.name": "ECONNREFUSED",
        "otel_connect.duration": 0.0004,
        "otel_connect.syn.retransmits": 0,
        "otel_connect.blocking": True,
        "otel_connect.server.address.source": "none",
        "otel_connect.event.id": "1f2e3d4c-1-7",
        "otel_connect.process.comm": "curl",
    }


@pytest.mark.parametrize(
    ("changes", "present", "absent"),
    [
        (ESTABLISHED, {"otel_connect.outcome": "established"}, {"error.type", "otel_connect.errno.code"}),
        ({**ESTABLISHED, "srtt_us": 1500}, {"otel_connect.rtt": 0.0015}, set()),
        (ESTABLISHED, {}, {"otel_connect.rtt"}),
        ({"srtt_us": 1500}, {}, {"otel_connect.rtt"}),
        ({"flags": 0}, {}, {"otel_connect.blocking"}),
        ({"flags": 3}, {"otel_connect.blocking": False}, set()),
        ({"duration_ns": None}, {}, {"otel_connect.duration"}),
        ({"executable_path": None, "owner": None}, {}, {"process.executable.path", "process.owner"}),
        ({"family": int(AF_INET6)}, {"network.type": "ipv6"}, set()),
        ({"family": 0}, {"network.transport": "tcp"}, {"network.type"}),
        (
            {"outcome": Outcome.ABANDONED, "errno": None, "superseded": True},
            {"otel_connect.superseded": True, "error.type": "canceled"},
            {"otel_connect.errno.name"},
        ),
        ({"superseded": True}, {}, {"otel_connect.superseded"}),
        (
            {"server": ServerName("db.example", "dns", "process")},
            {
                "server.address": "db.example",
                "network.peer.address": "10.1.2.80",
                "otel_connect.server.address.source": "dns",
                "otel_connect.server.address.matched_by": "process",
            },
            set(),
        ),
        (
            {"server": ServerName("db.example", "dns", "process", 5432)},
            {"server.address": "db.example", "server.port": 5432, "network.peer.port": 443},
            set(),
        ),
        ({}, {"otel_connect.server.address.source": "none"}, {"otel_connect.server.address.matched_by"}),
        ({"service_peer_name": "database"}, {"service.peer.name": "database"}, set()),
        (
            {"backend": ("10.9.0.7", 5432)},
            {"otel_connect.translated.address": "10.9.0.7", "otel_connect.translated.port": 5432},
            {"service.peer.name"},
        ),
        ({"errno": 600}, {"otel_connect.errno.code": 600}, {"otel_connect.errno.name"}),
        ({}, {}, {"otel_connect.rst.received", "otel_connect.drop.reason", "otel_connect.drop.count"}),
        ({"hooks": int(Hook.SYN_SENT | Hook.END | Hook.RESET)}, {"otel_connect.rst.received": True}, set()),
        *(
            (
                {**outcome, "drops": Drops("netfilter_drop", 2, received)},
                {
                    "otel_connect.drop.reason": "netfilter_drop",
                    "otel_connect.drop.count": 2,
                    "otel_connect.drop.direction": direction,
                },
                set(),
            )
            for outcome in (ESTABLISHED, {"outcome": Outcome.TIMED_OUT, "errno": errno.ETIMEDOUT})
            for received, direction in ((False, "transmit"), (True, "receive"))
        ),
    ],
)
def test_attributes_appear_when_there_is_something_to_say(
    changes: dict[str, Any], present: dict[str, Any], absent: set[str]
) -> None:
    found = attributes(**changes)
    assert present.items() <= found.items()
    assert not absent & found.keys()


def test_local_error_names_the_address_that_was_asked_for() -> None:
    found = attributes(**LOCAL)
    assert found["network.peer.address"] == found["server.address"] == "10.1.2.80"
    assert found["network.peer.port"] == found["server.port"] == 443
    absent = {"network.local.address", "otel_connect.requested.address", "otel_connect.syn.retransmits"}
    assert not absent & found.keys()


def test_where_connect_itself_gave_up_no_syn_was_sent() -> None:
    assert "otel_connect.syn.retransmits" not in attributes(outcome=Outcome.LOCAL_ERROR, errno=None)
    assert "otel_connect.syn.retransmits" in attributes(outcome=Outcome.LOCAL_ERROR, errno=errno.EPROTO)


@pytest.mark.parametrize("ending", [Ending.PENDING, Ending.REPLACED, Ending.EXPIRED, Ending.RETURNED])
def test_without_an_end_that_was_seen_nobody_has_counted_retransmits(ending: Ending) -> None:
    assert "otel_connect.syn.retransmits" not in attributes(ending=ending)


def test_no_syn_was_sent_when_no_source_port_was_found() -> None:
    changes = {"outcome": Outcome.LOCAL_ERROR, "errno": errno.EADDRNOTAVAIL, "ending": Ending.RETURNED}
    assert "otel_connect.syn.retransmits" not in attributes(**changes)


@pytest.mark.parametrize(
    ("requested", "shown"),
    [
        (("10.1.2.80", 443), None),
        (("10.96.0.10", 443), ("10.96.0.10", 443)),
        (("10.1.2.80", 80), ("10.1.2.80", 80)),
        ((None, None), None),
    ],
)
def test_requested_address_only_where_it_differs(
    requested: tuple[str | None, int | None], shown: tuple[str, int] | None
) -> None:
    found = attributes(requested_address=requested[0], requested_port=requested[1])
    expected = shown or (None, None)
    assert (
        found.get("otel_connect.requested.address"),
        found.get("otel_connect.requested.port"),
    ) == expected


@pytest.mark.parametrize(
    ("outcome", "code", "expected"),
    [
        (Outcome.ESTABLISHED, None, None),
        (Outcome.PENDING, None, None),
        (Outcome.REFUSED, errno.ECONNREFUSED, "connection_refused"),
        (Outcome.RESET, errno.ECONNRESET, "connection_reset"),
        (Outcome.TIMED_OUT, errno.ETIMEDOUT, "timed_out"),
        (Outcome.UNREACHABLE, errno.EHOSTUNREACH, "host_unreachable"),
        (Outcome.UNREACHABLE, errno.ENETUNREACH, "network_unreachable"),
        (Outcome.UNREACHABLE, errno.EACCES, "host_unreachable"),
        (Outcome.DENIED, errno.EPERM, "access_denied"),
        (Outcome.DENIED, errno.EACCES, "access_denied"),
        (Outcome.ABANDONED, None, "canceled"),
        (Outcome.UNKNOWN, None, "_OTHER"),
        (Outcome.LOCAL_ERROR, None, "_OTHER"),
        (Outcome.LOCAL_ERROR, errno.EADDRNOTAVAIL, "address_not_available"),
        (Outcome.LOCAL_ERROR, errno.EADDRINUSE, "address_already_in_use"),
        (Outcome.LOCAL_ERROR, errno.EAFNOSUPPORT, "address_family_not_supported"),
        (Outcome.LOCAL_ERROR, errno.EINTR, "interrupted"),
        (Outcome.LOCAL_ERROR, errno.EFAULT, "fault"),
        (Outcome.LOCAL_ERROR, errno.EINVAL, "invalid_argument"),
        (Outcome.LOCAL_ERROR, errno.ENOBUFS, "no_buffer_space_available"),
        (Outcome.LOCAL_ERROR, errno.ENOMEM, "no_buffer_space_available"),
        (Outcome.LOCAL_ERROR, errno.ENETDOWN, "network_down"),
        (Outcome.LOCAL_ERROR, errno.EPROTOTYPE, "protocol_type"),
        (Outcome.LOCAL_ERROR, errno.ECONNABORTED, "connection_aborted"),
        (Outcome.LOCAL_ERROR, errno.ECANCELED, "canceled"),
        (Outcome.LOCAL_ERROR, errno.EXDEV, "_OTHER"),
    ],
)
def test_error_type(outcome: Outcome, code: int | None, expected: str | None) -> None:
    assert error_type(Verdict(outcome, code)) == expected


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("superseded", [False, True])
def test_severity_is_warn_for_failures_only(outcome: Outcome, superseded: bool) -> None:
    attempt = make_attempt(outcome=outcome, superseded=superseded)
    calm = outcome in {Outcome.ESTABLISHED, Outcome.PENDING} or (outcome is Outcome.ABANDONED and superseded)
    assert is_failure(attempt) is not calm
    assert severity(attempt) == (INFO if calm else WARN)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "curl[4242] → 10.1.2.80:443 refused after 0.4 ms (ECONNREFUSED)"),
        (ESTABLISHED, "curl[4242] → 10.1.2.80:443 established after 0.4 ms"),
        ({"peer_address": "2001:db8::1"}, "curl[4242] → [2001:db8::1]:443 refused after 0.4 ms (ECONNREFUSED)"),
        (LOCAL, "curl[4242] → 10.1.2.80:443 failed locally after 0.4 ms (ENETUNREACH)"),
        (
            {**LOCAL, "requested_address": None, "requested_port": None, "errno": errno.EFAULT},
            "curl[4242] → an unknown address failed locally after 0.4 ms (EFAULT)",
        ),
        (
            {"outcome": Outcome.ABANDONED, "errno": None, "duration_ns": 5_000_000_000},
            "curl[4242] → 10.1.2.80:443 abandoned after 5.0 s",
        ),
        (
            {"outcome": Outcome.ABANDONED, "errno": None, "superseded": True},
            "curl[4242] → 10.1.2.80:443 abandoned after 0.4 ms (superseded)",
        ),
        (
            {"outcome": Outcome.PENDING, "errno": None, "duration_ns": None},
            "curl[4242] → 10.1.2.80:443 still pending",
        ),
        (
            {"outcome": Outcome.UNKNOWN, "errno": None, "duration_ns": None},
            "curl[4242] → 10.1.2.80:443 ended unseen",
        ),
        (
            {"outcome": Outcome.TIMED_OUT, "errno": errno.ETIMEDOUT, "duration_ns": 130_200_000_000},
            "curl[4242] → 10.1.2.80:443 timed out after 2 min 10 s (ETIMEDOUT)",
        ),
        ({"errno": 600}, "curl[4242] → 10.1.2.80:443 refused after 0.4 ms (errno 600)"),
        (
            {"executable_name": "a\nb\x1b[2J"},
            "a\\nb\\x1b[2J[4242] → 10.1.2.80:443 refused after 0.4 ms (ECONNREFUSED)",
        ),
    ],
)
def test_display_line(changes: dict[str, Any], line: str) -> None:
    assert display_line(make_attempt(**changes)) == line


@given(attempts)
def test_display_line_is_one_printable_line(attempt: Attempt) -> None:
    assert display_line(attempt).isprintable()


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0 µs"),
        (85_400, "85 µs"),
        (99_499, "99 µs"),
        (99_500, "0.1 ms"),
        (9_949_999, "9.9 ms"),
        (9_950_000, "10 ms"),
        (999_499_999, "999 ms"),
        (999_500_000, "1.0 s"),
        (59_949_000_000, "59.9 s"),
        (59_950_000_000, "1 min 0 s"),
        (119_600_000_000, "2 min 0 s"),
    ],
)
def test_duration(nanoseconds: int, text: str) -> None:
    assert duration(nanoseconds) == text


@given(hostile_text)
def test_valid_text_is_utf8_and_keeps_what_is_valid(text: str) -> None:
    made = valid_text(text)
    made.encode("utf-8")
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert made == text


def test_lone_surrogate_is_written_out() -> None:
    assert valid_text("a\udcffb") == "a\\udcffb"
