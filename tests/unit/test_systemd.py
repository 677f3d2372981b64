"""What the service manager hears, on a real datagram socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_connect.serve.systemd import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def heard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@otel-connect-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ears:
        ears.bind(name.replace("@", "\0", 1))
        ears.settimeout(10)
        yield name, ears


def test_every_message(heard: tuple[str, socket.socket]) -> None:
    name, ears = heard
    manager = ServiceManager({"NOTIFY_SOCKET": name}, 1)
    manager.ready("capturing, to http://collector:4318")
    manager.reloading(1_234_567_890)
    manager.status("10 attempts seen\nMAINPID=1")
    manager.alive()
    manager.stopping()
    manager.close()
    manager.alive()
    assert [ears.recv(4096).decode() for _ in range(5)] == [
        "READY=1\nSTATUS=capturing, to http://collector:4318",
        "RELOADING=1\nMONOTONIC_USEC=1234567",
        "STATUS=10 attempts seen\\x0aMAINPID=1",  # one line, whatever a backend said
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=stopping",
    ]
    ears.setblocking(False)
    with pytest.raises(BlockingIOError):
        ears.recv(1)


def test_without_a_manager_nothing_happens() -> None:
    manager = ServiceManager({"WATCHDOG_USEC": "1000000"}, 1)
    assert manager.watchdog_every_s is None
    manager.ready("x")
    manager.close()


def test_a_manager_that_is_gone_or_does_not_read(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    manager = ServiceManager({"NOTIFY_SOCKET": str(path)}, 1)
    manager.ready("nobody is here")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ears:
        ears.bind(str(path))
        for _ in range(10_000):  # more than any queue of datagrams holds
            manager.alive()
    manager.alive()
    manager.close()


@pytest.mark.parametrize(
    ("variables", "every_s"),
    [
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "7"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "8"}, None),
        *(({"WATCHDOG_USEC": text}, None) for text in ("", "0", "-5", "soon", "1e6", "９")),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_of_its_time(variables: dict[str, str], every_s: float | None) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": "/nowhere", **variables}, 7)
    assert manager.watchdog_every_s == every_s
    manager.close()
