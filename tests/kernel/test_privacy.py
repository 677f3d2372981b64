"""What leaves the agent when addresses are masked and users have no names: read as bytes, whatever they mean."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from otel_connect.enrich.masks import hash_mask
from tests.bench.agent import Backend
from tests.kernel.test_rates import COUNTED_EVERY
from tests.support.agent import COMMAND, RunningAgent
from tests.support.network import NetworkNamespace

pytestmark = pytest.mark.captures

# Nobody else uses these: what of them is found came from here.
OURS, PEER = "10.77.166.55", "10.77.166.44"
OURS_6, PEER_6 = "fd77:1:2:3:4:5:6:7755", "fd77:1:2:3:4:5:6:7744"
WHOLE = tuple(address.encode() for address in (OURS, PEER, OURS_6, PEER_6))
KEY = b"a key of the tests, and of nobody else"

CLIENT = f"""
import socket
for family, ours, peer in ((socket.AF_INET, {OURS!r}, {PEER!r}), (socket.AF_INET6, {OURS_6!r}, {PEER_6!r})):
    for port in (7001, 7002, 7003):
        with socket.socket(family) as client:
            client.bind((ours, 0))
            client.connect_ex((peer, port))
"""


class Kept(Backend):
    """Keeps the body of every request."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []

    def take(self, path: str, body: bytes) -> None:
        super().take(path, body)
        self.bodies.append(path.encode() + b" " + body)

    def of(self, signal_name: str) -> bytes:
        """Return all that was sent of a signal."""
        return b"".join(body for body in self.bodies if body.startswith(f"/v1/{signal_name} ".encode()))


@contextmanager
def kept() -> Iterator[Kept]:
    backend = Kept()
    try:
        yield backend
    finally:
        backend.server_close()


@pytest.fixture(scope="module")
def place() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as namespace:
        for address in (OURS, PEER):
            namespace.ip(f"addr add {address}/32 dev lo")
        for address in (OURS_6, PEER_6):
            namespace.ip(f"addr add {address}/128 dev lo nodad")
        yield namespace


def connect(place: NetworkNamespace) -> None:
    ended = place.run(["/usr/bin/python3", "-Sc", CLIENT])
    assert (ended.returncode, ended.stderr) == (0, "")


def run(place: NetworkNamespace, settings: Path, *, twice: bool = False) -> tuple[Kept, list[str]]:
    """Make the attempts while an agent with these settings runs; returns what it sent, and its log."""
    with kept() as backend:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint} | COUNTED_EVERY
        with RunningAgent("--config", str(settings), environment=environment) as agent:
            connect(place)
            if twice:
                agent.until(lambda: backend.of("logs").count(b":7003 refused") >= 2)
                (settings.parent / "key").write_bytes(KEY[::-1])
                agent.process.send_signal(signal.SIGHUP)
                agent.until(lambda: any("configuration reloaded" in line for line in agent.errors))
                connect(place)
        return backend, agent.errors


def configured(tmp_path: Path, text: str) -> Path:
    (tmp_path / "key").write_bytes(KEY)
    file = tmp_path / "otel-connect.toml"
    file.write_text(f"[enrich]\n{text}\n".replace("KEY", str(tmp_path / "key")), encoding="utf-8")
    return file


def test_without_a_mask_all_of_them_are_there(place: NetworkNamespace, tmp_path: Path) -> None:
    backend, _ = run(place, configured(tmp_path, ""))
    for name, addresses in (("logs", WHOLE), ("traces", WHOLE), ("metrics", WHOLE[1::2])):
        assert all(address in backend.of(name) for address in addresses)


def test_host_bits_leave_neither_in_records_nor_spans_nor_metrics(place: NetworkNamespace, tmp_path: Path) -> None:
    known = f'known_peers = [{{ cidr = "{PEER}", name = "the-orders" }}]\n'
    backend, errors = run(place, configured(tmp_path, known + 'mask_addresses = "prefix"\nuser_names = false'))
    assert not [address for address in WHOLE if address in b"".join(backend.bodies)]
    assert not [line for line in errors if any(address.decode() in line for address in WHOLE)]
    for name in ("logs", "traces", "metrics"):
        assert b"10.77.166.0" in backend.of(name)
        assert b"fd77:1:2:3::" in backend.of(name)
        assert b"process.owner" not in backend.of(name)
    assert b"the-orders" in backend.of("logs")


def test_a_hash_hides_the_network_too_and_follows_its_key(place: NetworkNamespace, tmp_path: Path) -> None:
    settings = configured(tmp_path, 'mask_addresses = "hash"\nmask_key_file = "KEY"')
    backend, _ = run(place, settings, twice=True)
    sent = b"".join(backend.bodies)
    assert b"10.77." not in sent
    assert b"fd77:" not in sent
    for key in (KEY, KEY[::-1]):
        assert all(hash_mask(key)(address).encode() in backend.of("logs") for address in (OURS, PEER, OURS_6, PEER_6))
        assert all(hash_mask(key)(address).encode() in backend.of("metrics") for address in (PEER, PEER_6))


def test_the_console_shows_no_more(place: NetworkNamespace, tmp_path: Path) -> None:
    settings = configured(tmp_path, 'mask_addresses = "prefix"')
    with RunningAgent("--config", str(settings), "--output", "console") as agent:
        connect(place)
        agent.until(lambda: sum(line.endswith(":7003") for line in agent.output) >= 2)
    text = "\n".join((*agent.output, *agent.errors)).encode()
    assert not [address for address in WHOLE if address in text]
    assert text.count(b"10.77.166.0 ") >= 6


def test_validate_reads_the_key(tmp_path: Path) -> None:
    settings = configured(tmp_path, 'mask_addresses = "hash"\nmask_key_file = "KEY"')
    (tmp_path / "key").write_bytes(b"short")
    ended = subprocess.run([COMMAND, "validate", "--config", settings], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "holds 5 bytes; at least 16 random ones are needed" in ended.stderr
    (tmp_path / "key").write_bytes(KEY)
    ended = subprocess.run([COMMAND, "validate", "--config", settings], capture_output=True, text=True, check=False)
    assert ended.returncode == 0
