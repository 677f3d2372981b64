"""What the agent reads of processes, as strace sees it, and what of that it sends."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.agent import COMMAND, RunningAgent
from tests.support.network import NetworkNamespace

PEER = "10.77.167.44"
TRACED = (
    *("openat", "openat2", "open", "readlink", "readlinkat", "execve", "process_vm_readv", "connect", "sendto"),
    *("socket", "setns", "unshare", "clone", "clone3", "fork", "vfork"),
)
CLIENT = f"""
import socket, sys
socket.socket().connect_ex(({PEER!r}, 7004))
sys.stdin.read()
"""
TOLD = {"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "team=blue"}
SECRET = {
    "API_TOKEN": "untold-1",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=untold-2",
    "OTEL_SERVICE_NAMES": "untold-3",
    "MY_OTEL_SERVICE_NAME": "untold-4",
}
MORE_THAN_IS_LOOKED_AT = {f"V{number}": f"untold-{number}" for number in range(300)}
ARGUMENT = "untold-argument"


class Seen(NamedTuple):
    """What an agent was seen to do and to say while clients connected once."""

    calls: str
    said: str
    records: list[dict[str, object]]
    pids: dict[str, int]

    def opened(self, client: str) -> set[str]:
        """Return what was opened below ``/proc/<pid>`` of a client, or a link of it that was read."""
        found = re.findall(rf'"/proc/{self.pids[client]}/(?:task/\d+/)?([^"]+)"', self.calls)
        return set(found)

    def looks(self, client: str) -> list[tuple[str, int]]:
        """Return which file of a client was looked for, and how many were opened for that, each time."""
        here = f'"/proc/{self.pids[client]}'
        looks = re.findall(rf'{here}/root"(.*?openat2\(\d+, "([^"]+)".*?){here}/stat"', self.calls, re.DOTALL)
        return [(path, calls.count('"/proc/self/fd/')) for calls, path in looks]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("traced")
    passwd = folder / "passwd"
    passwd.write_text("somebody:x:0:0::/:\n")
    own_root = ["unshare", "--mount", "sh", "-c", f'mount --bind {passwd} /etc/passwd && exec "$@"', "sh"]
    clients: dict[str, tuple[list[str], dict[str, str]]] = {
        "ordinary": ([], SECRET | TOLD),
        "own root": (own_root, SECRET | TOLD),
        "another with its files": (own_root, SECRET | TOLD),
        "many variables": ([], MORE_THAN_IS_LOOKED_AT | SECRET | TOLD),
    }
    trace = folder / "calls"
    command = ("strace", "-D", "-f", "-v", "-s", "4096", "-e", f"trace={','.join(TRACED)}", "-o", trace, COMMAND, "run")
    with NetworkNamespace() as place:
        place.ip(f"addr add {PEER}/32 dev lo")
        with RunningAgent("--output", "json", command=command) as agent:
            running = {
                name: subprocess.Popen(
                    place.command([*enter, os.path.realpath(sys.executable), "-c", CLIENT, ARGUMENT]),
                    stdin=subprocess.PIPE,
                    env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"} | environment,
                )
                for name, (enter, environment) in clients.items()
            }
            pids = {name: client.pid for name, client in running.items()}
            try:
                agent.until(lambda: len(agent.attempts(*pids.values())) == len(pids), 60)
            finally:
                for client in running.values():
                    client.communicate(timeout=30)
        records = agent.attempts(*pids.values())
    return Seen(trace.read_text(), "\n".join((*agent.output, *agent.errors)), records, pids)


def test_what_is_opened_of_a_process(seen: Seen) -> None:
    # Its memory only where a mapping is found in maps.
    usual = {"maps", "root", "stat"}
    assert seen.opened("ordinary") == usual
    assert seen.opened("own root") == usual | {"uid_map"}
    assert seen.opened("another with its files") == usual | {"uid_map"}
    assert seen.opened("many variables") == usual | {"cgroup", "environ"}
    assert {path for client in seen.pids for path, _ in seen.looks(client)} == {"/etc/hosts", "/etc/passwd"}
    assert "process_vm_readv" not in seen.calls


def test_a_file_that_processes_share_is_opened_once(seen: Seen) -> None:
    looks = seen.looks("own root") + seen.looks("another with its files")
    assert sorted(opened for path, opened in looks if path == "/etc/passwd") == [0, 1]


def test_of_an_environment_two_variables_are_sent(seen: Seen) -> None:
    for record in seen.records:
        assert record["resource"].items() >= {"service.name": "shop", "team": "blue"}.items()  # type: ignore[attr-defined]
    assert "untold" not in seen.said


def test_nothing_is_sent_anywhere_without_an_endpoint(seen: Seen) -> None:
    assert not re.findall(r"(?:connect|sendto)\(.*\bAF_INET6?\b.*", seen.calls)


def test_no_namespace_is_entered_and_no_packet_socket_opened(seen: Seen) -> None:
    assert not re.findall(r".*(?:\bsetns\(|\bunshare\(|CLONE_NEW|AF_PACKET|SOCK_RAW).*", seen.calls)
    assert "socket(AF_INET" in seen.calls, "of the status pages: so sockets are traced"
    assert re.search(r"\b(?:v?fork|clone3?)\(", seen.calls), "of the compiler: so are new processes"


def test_the_compiler_has_an_environment_and_a_folder_of_its_own(seen: Seen) -> None:
    [child] = [line for line in seen.calls.splitlines() if "otel_connect.capture.child" in line]
    variables = dict(one.split("=", 1) for one in re.findall(r'"((?:[A-Z_]+)=[^"]*)"', child.rpartition("[")[2]))
    assert variables.keys() == {"PATH", "TMPDIR", "BCC_KERNEL_SOURCE"}
    assert not Path(variables["TMPDIR"]).exists()
