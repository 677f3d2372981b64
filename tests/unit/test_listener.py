"""Where the status server may listen, and whom it must not push aside."""

import os
import socket
import stat
from pathlib import Path

import pytest

from otel_connect.config import DEFAULT_LISTEN, Listen, ServeConfig, parse_listen
from otel_connect.errors import ConfigError
from otel_connect.serve.listener import Listener, wanted
from tests.support.collector import free_ports


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9475", Listen("", "127.0.0.1", 9475)),
        ("localhost:1", Listen("", "localhost", 1)),
        ("[::1]:65535", Listen("", "::1", 65535)),
        ("unix:/run/otel-connect.sock", Listen("/run/otel-connect.sock", "localhost", 0)),
    ],
)
def test_addresses(text: str, address: Listen) -> None:
    assert parse_listen(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("9475", ":9475", "localhost", "localhost:", "localhost:0", "localhost:65536", "localhost:９", "::1:9475"),
        *("[::1]", "[127.0.0.1]:9475", "http://localhost:1", "unix:", "unix:status.sock", "unix:/" + "a" * 107),
        "unix:/a\0b",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_listen(text)


def test_on_unless_switched_off() -> None:
    assert wanted(ServeConfig()) == DEFAULT_LISTEN
    assert wanted(ServeConfig(listen="")) is None
    assert wanted(ServeConfig(listen="off")) is None
    assert wanted(ServeConfig(listen="localhost:1")) == Listen("", "localhost", 1)


def test_a_unix_socket_is_its_owners_alone_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "s"
    before = os.umask(0)
    try:
        listener = Listener(Listen(str(path), "localhost", 0))
    finally:
        assert os.umask(before) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listener.close()
    assert not path.exists()


def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    address = Listen(str(path), "localhost", 0)
    first = Listener(address)
    with pytest.raises(ConfigError, match=r"serve.listen: cannot listen at unix:.*in use"):
        Listener(address)
    path.unlink()
    second = Listener(address)
    first.close()
    assert path.exists()  # it is the second one's
    second.close()
    assert not path.exists()


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="in use"):
        Listener(Listen(str(path), "localhost", 0))
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("host", "said"), [("203.0.113.1", "Cannot assign"), ("no-such-host.invalid", "cannot listen")]
)
def test_an_address_that_is_not_ours(host: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refusal:
        Listener(Listen("", host, *free_ports(1)))
    assert len(refusal.value.problems) == 1
    assert "\n" not in str(refusal.value)


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        Listener(Listen(str(tmp_path / "absent" / "s"), "localhost", 0))
