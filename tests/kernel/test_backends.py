"""Who is behind an address that the host translates, as kube-proxy does it: asked of a real connection tracking."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.agent import COMMAND, RunningAgent
from tests.support.network import NetworkNamespace

pytestmark = pytest.mark.captures

SERVICE, SERVICE_6 = "10.96.0.10", "fd96::10"
SERVER, SERVER_6 = "10.77.2.2", "fd77:2::2"

RULES = f"""
table inet services {{
    chain incoming {{
        type nat hook prerouting priority dstnat;
        ip daddr {SERVICE} tcp dport 80 dnat ip to {SERVER}:8080
        ip daddr {SERVICE} tcp dport 81 dnat ip to {SERVER}:8081
        ip daddr {SERVICE} tcp dport 82 dnat ip to {SERVER}:8082
        ip6 daddr {SERVICE_6} tcp dport 80 dnat ip6 to [{SERVER_6}]:8080
    }}
}}
"""

SILENCE = "table inet silence { chain incoming { type filter hook input priority 0; tcp dport 8082 drop; }; }"

CLIENT = f"""
import socket
for address, port in (
    ({SERVICE!r}, 80), ({SERVICE!r}, 81), ({SERVICE!r}, 82), ({SERVICE_6!r}, 80),
    ({SERVER!r}, 8080), ({SERVER!r}, 8081),
):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
        client.setblocking(port != 82)
        client.connect_ex((address, port))
"""
LISTENER = """
import socket
servers = [socket.create_server(("0.0.0.0", 8080)), socket.create_server(("::", 8080), family=socket.AF_INET6)]
print("listening", flush=True)
import select
while True:
    for server in select.select(servers, [], [])[0]:
        server.accept()[0].close()
"""


class Host(NamedTuple):
    """A host that routes between a pod and a server, and translates addresses of services."""

    pod: NetworkNamespace
    host: NetworkNamespace


@pytest.fixture
def host() -> Iterator[Host]:
    with NetworkNamespace() as pod, NetworkNamespace() as host, NetworkNamespace() as server:
        host.cable(pod, "pod", [("10.77.1.1/24", "10.77.1.2/24"), ("fd77:1::1/64", "fd77:1::2/64")])
        host.cable(server, "server", [("10.77.2.1/24", f"{SERVER}/24"), ("fd77:2::1/64", f"{SERVER_6}/64")])
        host.sysctl("net.ipv4.ip_forward", 1)
        host.sysctl("net.ipv6.conf.all.forwarding", 1)
        for space, number in ((pod, 1), (server, 2)):
            space.ip(f"route add default via 10.77.{number}.1")
            space.ip(f"-6 route add default via fd77:{number}::1")
        for space, rules in ((host, RULES), (server, SILENCE)):
            loaded = subprocess.run(
                space.command(["nft", "-f", "-"]), input=rules, text=True, capture_output=True, check=False
            )
            assert (loaded.returncode, loaded.stderr) == (0, "")
        listener = server.popen(["/usr/bin/python3", "-Sc", LISTENER])
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "listening\n"
            yield Host(pod, host)
        finally:
            listener.kill()
            listener.communicate()


def attempts(host: Host, settings: Path) -> list[dict[str, Any]]:
    """Return the attributes of the pod's attempts, seen by an agent in the network namespace of the host."""
    arguments = ("--config", str(settings), "--output", "json")
    with RunningAgent(*arguments, command=host.host.command([str(COMMAND), "run"])) as agent:
        client = host.pod.popen(["/usr/bin/python3", "-Sc", CLIENT])
        assert client.wait(30) == 0
        client.communicate()
        agent.until(lambda: len(agent.attempts(client.pid)) >= 6)
        return [record["attributes"] for record in agent.attempts(client.pid)]


def test_the_real_backend_stands_beside_the_peer(host: Host, tmp_path: Path) -> None:
    settings = tmp_path / "otel-connect.toml"
    settings.write_text("[enrich]\nconntrack = true\n")
    found = [
        (
            one["otel_connect.outcome"],
            one["network.peer.address"],
            one["network.peer.port"],
            one.get("otel_connect.translated.address"),
            one.get("otel_connect.translated.port"),
            one.get("otel_connect.requested.address"),
        )
        for one in attempts(host, settings)
    ]
    assert found == [
        ("established", SERVICE, 80, SERVER, 8080, None),
        # The kernel forgets a connection as soon as its first answer is a reset (nf_conntrack_proto_tcp.c).
        ("refused", SERVICE, 81, None, None, None),
        ("abandoned", SERVICE, 82, SERVER, 8082, None),
        ("established", SERVICE_6, 80, SERVER_6, 8080, None),
        ("established", SERVER, 8080, None, None, None),
        ("refused", SERVER, 8081, None, None, None),
    ]


def test_a_backend_is_masked_as_all_addresses_are(host: Host, tmp_path: Path) -> None:
    settings = tmp_path / "otel-connect.toml"
    settings.write_text('[enrich]\nconntrack = true\nmask_addresses = "prefix"\n')
    found = attempts(host, settings)
    assert [one.get("otel_connect.translated.address") for one in found if "otel_connect.translated.port" in one] == [
        "10.77.2.0",
        "10.77.2.0",
        "fd77:2::",
    ]
    assert SERVER not in json.dumps(found)
    assert SERVER_6 not in json.dumps(found)


def test_it_is_not_asked_unless_that_is_wanted(host: Host, tmp_path: Path) -> None:
    settings = tmp_path / "otel-connect.toml"
    settings.write_text("")
    assert not [key for one in attempts(host, settings) for key in one if key.startswith("otel_connect.translated")]


def test_without_the_privilege_one_line_says_what_to_do(tmp_path: Path) -> None:
    settings = tmp_path / "otel-connect.toml"
    settings.write_text("[enrich]\nconntrack = true\n")
    without = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    ended = subprocess.run(
        [*without, COMMAND, "run", "--config", settings, "--output", "json", "--duration", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 77
    (line,) = ended.stderr.splitlines()
    assert "grant CAP_NET_ADMIN, or set enrich.conntrack = false" in line


@pytest.mark.parametrize(("wanted", "kept"), [("true", True), ("false", False)])
def test_the_privilege_stays_only_where_it_is_needed(tmp_path: Path, wanted: str, kept: bool) -> None:
    settings = tmp_path / "otel-connect.toml"
    settings.write_text(f"[enrich]\nconntrack = {wanted}\n")
    with RunningAgent("--config", str(settings), "--output", "json") as agent:
        status = Path(f"/proc/{agent.process.pid}/status").read_text()
        (effective,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff"))
    assert bool(effective >> 12 & 1) is kept
