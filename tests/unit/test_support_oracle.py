"""The strace oracle: what its lines mean, and which calls are attempts."""

import pytest

from tests.support.oracle import ObservedCall, attempts, parse

V4 = '{sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("192.0.2.2")}, 16'
V6 = (
    "{sa_family=AF_INET6, sin6_port=htons(80), sin6_flowinfo=htonl(0), "
    'inet_pton(AF_INET6, "2001:db8::2", &sin6_addr), sin6_scope_id=0}, 28'
)
MAPPED = V6.replace("2001:db8::2", "::ffff:192.0.2.2")
INPROGRESS = "-1 EINPROGRESS (Operation now in progress)"
THREAD = "CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM"


def lines(*texts: str) -> list[str]:
    """Put process 100 and a time before each line, unless it begins with another thread id and a colon."""
    numbered = []
    for number, text in enumerate(texts):
        tid, colon, rest = text.partition(": ")
        tid, rest = (tid, rest) if colon and tid.isdigit() else ("100", text)
        numbered.append(f"{tid} 1000.{number:06d} {rest}")
    return numbered


def ends(*texts: str) -> list[tuple[str, str | None]]:
    return [(attempt.result, attempt.errno_name) for attempt in attempts(parse(lines(*texts)))]


def connect(result: str, address: str = V4, fd: int = 3) -> str:
    return f"connect({fd}<TCP:[97658]>, {address}) = {result} <0.000050>"


def socket_error(number: str, fd: int = 3) -> str:
    return f"getsockopt({fd}<TCP:[1.1.1.1:5->2.2.2.2:80]>, SOL_SOCKET, SO_ERROR, [{number}], [4]) = 0 <0.000013>"


CLOSE = "close(3<TCP:[192.0.2.1:58100->192.0.2.2:80]>) = 0 <0.000085>"
EXIT = "+++ exited with 0 +++"


def test_a_call_in_all_its_parts() -> None:
    (call,) = parse(["4242  1795492238.250000 " + connect("-1 ECONNREFUSED (Connection refused)")])
    assert call == ObservedCall(
        pid=4242,
        tid=4242,
        name="connect",
        fd=3,
        family="AF_INET",
        address="192.0.2.2",
        port=80,
        result=-1,
        errno_name="ECONNREFUSED",
        start=1795492238.25,
        duration=0.00005,
    )


@pytest.mark.parametrize(
    ("sockaddr", "family", "address", "port"),
    [
        (V4, "AF_INET", "192.0.2.2", 80),
        (V6, "AF_INET6", "2001:db8::2", 80),
        (MAPPED, "AF_INET6", "::ffff:192.0.2.2", 80),
        (r'{sa_family=AF_UNSPEC, sa_data="\0\0\0\0"}, 28', "AF_UNSPEC", None, None),
        ("0x1, 28", None, None, None),
    ],
)
def test_addresses(sockaddr: str, family: str | None, address: str | None, port: int | None) -> None:
    (call,) = parse(lines(connect("0", sockaddr)))
    assert (call.family, call.address, call.port) == (family, address, port)


@pytest.mark.parametrize(
    "text",
    [
        'connect(3<UNIX-STREAM:[98750]>, {sa_family=AF_UNIX, sun_path="/run/x"}, 26) = -1 ENOENT (No such file)',
        f"connect(3<UDP:[98747]>, {V4}) = 0 <0.000081>",
        f"connect(3<UDPv6:[98747]>, {V6}) = 0 <0.000081>",
        f"connect(99, {V4}) = -1 EBADF (Bad file descriptor) <0.000004>",
        "close(3</etc/hosts>) = 0 <0.000004>",
        'sendto(3<TCP:[1.1.1.1:5->2.2.2.2:80]>, "hello", 5, MSG_NOSIGNAL, NULL, 0) = 5 <0.000100>',
        "getsockopt(3<TCP:[97931]>, SOL_TCP, TCP_KEEPCNT, [9], [4]) = 0 <0.000046>",
        "getsockopt(3<TCP:[97931]>, SOL_SOCKET, SO_SNDBUF, [87040], [4]) = 0 <0.000046>",
        "--- SIGALRM {si_signo=SIGALRM, si_code=SI_KERNEL} ---",
        "",
    ],
)
def test_what_is_no_call_on_a_tcp_socket(text: str) -> None:
    assert parse([*lines(text), "strace: a warning"]) == []


def test_a_call_in_two_halves_is_one_and_starts_with_the_first() -> None:
    first, second = parse(
        lines(
            f"connect(3<TCP:[97737]>, {V4} <unfinished ...>",
            f"101: connect(4<TCP:[97738]>, {V6}) = 0 <0.000020>",
            "<... connect resumed>) = -1 ETIMEDOUT (Connection timed out) <3.081851>",
        )
    )
    assert (first.fd, first.errno_name, first.start, first.duration) == (3, "ETIMEDOUT", 1000.0, 3.081851)
    assert (second.fd, second.result) == (4, 0)


@pytest.mark.parametrize(
    "clone",
    [
        "clone3({flags=" + THREAD + ", exit_signal=0} => {parent_tid=[101]}, 88) = 101 <0.000082>",
        "clone(child_stack=0x160443888000, flags=" + THREAD + ", tls=0x16044389c090) = 101 <0.000062>",
    ],
)
def test_a_thread_belongs_to_its_process_and_its_end_ends_nothing(clone: str) -> None:
    calls = parse(lines(clone, f"101: {connect(INPROGRESS)}", f"101: {EXIT}"))
    assert [(call.pid, call.tid) for call in calls] == [(100, 101)]


def test_the_thread_of_a_thread_belongs_to_the_process() -> None:
    clone = "clone3({flags=" + THREAD + "}, 88) = "
    (call,) = parse(lines(f"{clone}101 <0.1>", f"101: {clone}102 <0.1>", f"102: {connect('0')}"))
    assert (call.pid, call.tid) == (100, 102)


def test_a_child_is_a_process_of_its_own_and_closes_nothing_of_its_parent() -> None:
    fork = "clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD, child_tidptr=0x7f) = 101 <0.1>"
    assert ends(connect(INPROGRESS), fork, f"101: {CLOSE}", f"101: {EXIT}", socket_error("0")) == [("ok", None)]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        pytest.param([connect("0"), CLOSE, EXIT], [("ok", None)], id="blocking, established"),
        pytest.param(
            [connect("-1 ENETUNREACH (Network is unreachable)"), CLOSE], [("error", "ENETUNREACH")], id="no route"
        ),
        pytest.param([connect("-1 EFAULT (Bad address)", "0x1, 28")], [("error", "EFAULT")], id="bad pointer"),
        pytest.param([connect(INPROGRESS)], [("pending", None)], id="still pending"),
        pytest.param([connect(INPROGRESS), socket_error("0"), CLOSE], [("ok", None)], id="SO_ERROR 0"),
        pytest.param(
            [connect(INPROGRESS), socket_error("ECONNREFUSED"), CLOSE],
            [("error", "ECONNREFUSED")],
            id="SO_ERROR ECONNREFUSED",
        ),
        pytest.param([connect(INPROGRESS), CLOSE], [("abandoned", None)], id="closed while pending"),
        pytest.param([connect(INPROGRESS), EXIT], [("abandoned", None)], id="exit while pending"),
        pytest.param(
            [connect(INPROGRESS), connect("0", r'{sa_family=AF_UNSPEC, sa_data="\0"}, 28'), CLOSE],
            [("abandoned", None)],
            id="AF_UNSPEC while pending",
        ),
        pytest.param([connect("0", r'{sa_family=AF_UNSPEC, sa_data="\0"}, 28')], [], id="AF_UNSPEC when idle"),
        pytest.param(
            [
                connect(INPROGRESS),
                connect("-1 EALREADY (Operation already in progress)"),
                connect("0"),
                connect("-1 EISCONN (Transport endpoint is already connected)"),
            ],
            [("ok", None)],
            id="called again while pending and when connected",
        ),
        pytest.param(
            [connect(INPROGRESS), connect("-1 EISCONN (Transport endpoint is already connected)")],
            [("ok", None)],
            id="EISCONN tells of the end",
        ),
        pytest.param(
            [connect("-1 EISCONN (Transport endpoint is already connected)")],
            [],
            id="EISCONN on a socket connected before",
        ),
        pytest.param(
            [connect(INPROGRESS), connect("-1 ECONNREFUSED (Connection refused)"), CLOSE],
            [("error", "ECONNREFUSED")],
            id="late report",
        ),
        pytest.param(
            [connect("-1 ECONNREFUSED (Connection refused)"), connect("0"), CLOSE],
            [("error", "ECONNREFUSED"), ("ok", None)],
            id="a second attempt on the same socket",
        ),
        pytest.param(
            [connect("0"), CLOSE, connect("0"), CLOSE], [("ok", None), ("ok", None)], id="the same number again"
        ),
        pytest.param(
            [connect("? ERESTARTSYS (To be restarted if SA_RESTART is set)"), connect("0"), CLOSE],
            [("ok", None)],
            id="repeated by the kernel after a signal",
        ),
        pytest.param(
            [connect("? ERESTARTSYS (To be restarted if SA_RESTART is set)"), socket_error("0")],
            [("ok", None)],
            id="waited for after a signal",
        ),
        pytest.param(
            [f"connect(3<TCP:[360066]>, {V4}) = ?", "+++ killed by SIGKILL +++"],
            [("abandoned", None)],
            id="killed",
        ),
        pytest.param(
            [f"connect(3<TCP:[360066]>, {V4} <unfinished ...>", "+++ killed by SIGKILL +++"],
            [("abandoned", None)],
            id="killed in the middle of a line",
        ),
        pytest.param(
            [f'sendto(3<TCP:[97749]>, "hello", 5, MSG_FASTOPEN, {V4}) = 5 <0.2>', CLOSE],
            [("ok", None)],
            id="sendto with MSG_FASTOPEN",
        ),
        pytest.param([f"connect(3<socket:[97828]>, {V4}) = 0 <0.2>", CLOSE], [("ok", None)], id="MPTCP"),
        pytest.param(
            [connect(INPROGRESS), connect(INPROGRESS, fd=4), socket_error("0", fd=4), CLOSE],
            [("abandoned", None), ("ok", None)],
            id="two sockets",
        ),
    ],
)
def test_attempts(texts: list[str], expected: list[tuple[str, str | None]]) -> None:
    assert ends(*texts) == expected


def test_a_close_by_another_thread_does_not_end_a_blocked_call() -> None:
    clone = "clone3({flags=" + THREAD + "}, 88) = 101 <0.1>"
    assert ends(
        clone,
        f"connect(3<TCP:[97737]>, {V4} <unfinished ...>",
        f"101: {CLOSE}",
        "<... connect resumed>) = -1 ETIMEDOUT (Connection timed out) <3.0>",
    ) == [("error", "ETIMEDOUT")]
