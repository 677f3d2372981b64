"""Happy eyeballs and dead servers, by real clients against the real agent: what is INFO, and what is still WARN."""

import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import runtimes
from tests.support.agent import RunningAgent
from tests.support.naming import with_files
from tests.support.network import NetworkNamespace
from tests.support.resolver import Resolver

PORT = 18999  # attempts to any other are left out: a flood of somebody else's must not slow this down
OTHER_PORTS = f"1-{PORT - 1}", f"{PORT + 1}-65535"
CHECKS = 4
UNPACK = Path(__file__).parents[1] / "unpack.sh"
ALIVE4, DEAD4, ALIVE6, DEAD6 = "10.53.0.80", "10.53.1.9", "2001:db8::80", "2001:db8:1::9"
SLOW6 = {"curl": "2001:db8::81", "go": "2001:db8::82"}  # their first SYN gets lost
RECORDS = {
    "dead6.test": [("AAAA", DEAD6), ("A", ALIVE4)],
    "dead4.test": [("AAAA", ALIVE6), ("A", DEAD4)],
    "two-dead.test": [("AAAA", DEAD6), ("A", DEAD4), ("A", ALIVE4)],
    **{f"slow6-{who}.test": [("AAAA", address), ("A", DEAD4)] for who, address in SLOW6.items()},
    "alive.test": [("A", ALIVE4)],
    "dead.test": [("A", DEAD4)],
}
# Node tries IPv6 and IPv4 in turn, as they come; the dead address of IPv4 comes first, which no resolver promises.
NODE = """
const { Resolver } = require("node:dns").promises;
const net = require("node:net");
const resolver = new Resolver();
const lookup = async (host, options, done) => {
  const [six, four] = await Promise.all([resolver.resolve6(host), resolver.resolve4(host)]);
  done(null, [six, four].flatMap((found, index) =>
    found.sort().reverse().map((address) => ({ address, family: index ? 4 : 6 }))));
};
net.connect({ host: process.argv[1], port: Number(process.argv[2]), lookup, autoSelectFamily: true })
  .on("connect", function () { this.destroy(); });
"""
# Gives an attempt up at the very moment another one is established, as in a race; but they are two servers.
TWO_SERVERS = """
import select, socket, sys, time
def dial(name):
    family, kind, _, _, address = socket.getaddrinfo(name, int(sys.argv[3]), type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind)
    made.setblocking(False)
    made.connect_ex(address)
    return made
dead = dial(sys.argv[1])
time.sleep(0.25)
alive = dial(sys.argv[2])
select.select([], [alive], [])
dead.close()
"""
HAPROXY = """
defaults
    mode tcp
    timeout connect 300ms
    timeout client 1s
    timeout server 1s
    timeout check 300ms
frontend front
    bind 127.0.0.1:8080
    default_backend pool
backend pool
    default-server check inter 400ms
    server one {ALIVE4}:{PORT}
    server two {DEAD4}:{PORT}
    server three alive.test:{PORT}
    server four dead.test:{PORT}
"""


class Case(NamedTuple):
    argv: Sequence[str]
    given_up: Sequence[str]
    """The addresses whose attempts the client gives up, in the order that they began."""
    superseded: bool


def runtime(name: str, *arguments: str | int) -> list[str]:
    (found,) = [one for one in runtimes.available() if one.name == name]
    return found.argv(str(arguments[0]), PORT, 1, 5000)


def curl(*urls: str) -> list[str]:
    found = shutil.which("curl")
    assert found is not None, "curl is needed for the tests"
    parts = [part for url in urls for part in ("--next", "-o", "/dev/null", "--connect-timeout", "1", url)]
    return [found, "-q", "-s", "-Z", *parts[1:]]


def node(name: str) -> list[str]:
    found = shutil.which("node")
    assert found is not None, "node is needed for the tests"
    return [found, "-e", NODE, name, str(PORT)]


def failover(name: str, timeout_ms: int) -> list[str]:
    return [*runtimes.java("Failover"), name, str(PORT), str(timeout_ms)]


def haproxy(configuration: Path) -> list[str]:
    """Return the command that runs the distribution's HAProxy with the health checks of four servers."""
    fetched = subprocess.run([UNPACK, "haproxy", "haproxy"], stdout=subprocess.PIPE, text=True, check=True)
    unpacked = Path(fetched.stdout.strip())
    libraries = {str(path.parent) for path in unpacked.glob("usr/lib/**/*.so.*")}
    configuration.write_text(HAPROXY.format(ALIVE4=ALIVE4, DEAD4=DEAD4, PORT=PORT))
    program = [str(unpacked / "usr/sbin/haproxy"), "-db", "-f", str(configuration)]
    return ["env", f"LD_LIBRARY_PATH={':'.join(libraries)}", *program]


def two_servers(dead: str, alive: str) -> list[str]:
    return [*runtimes.PYTHON[:1], "-c", TWO_SERVERS, dead, alive, str(PORT)]


CASES: dict[str, Callable[[], Case]] = {
    "curl, the first address is dead": lambda: Case(runtime("curl", "dead6.test"), [DEAD6], True),
    "curl, the first address answers late": lambda: Case(runtime("curl", "slow6-curl.test"), [DEAD4], True),
    "go, the first address is dead": lambda: Case(runtime("go", "dead6.test"), [DEAD6], True),
    "go, the first address answers late": lambda: Case(runtime("go", "slow6-go.test"), [DEAD4], True),
    "node, the first address is dead": lambda: Case(runtime("node", "dead6.test"), [DEAD6], True),
    "node, two addresses are dead": lambda: Case(node("two-dead.test"), [DEAD6, DEAD4], True),
    "java, the next address after 300 ms": lambda: Case(failover("dead4.test", 300), [DEAD4], True),
    "java, the next address after 2.5 s": lambda: Case(failover("dead4.test", 2500), [DEAD4], False),
    "curl, two servers by address": lambda: Case(
        curl(f"http://{DEAD4}:{PORT}/", f"http://{ALIVE4}:{PORT}/"), [DEAD4], False
    ),
    "curl, two servers by name": lambda: Case(
        curl(f"http://dead.test:{PORT}/", f"http://alive.test:{PORT}/"), [DEAD4], False
    ),
    "two servers by address, given up as in a race": lambda: Case(two_servers(DEAD4, ALIVE4), [DEAD4], False),
    "two servers by name, given up as in a race": lambda: Case(two_servers("dead.test", "alive.test"), [DEAD4], False),
    "nothing answers": lambda: Case(runtime("curl", "dead.test"), [DEAD4], False),
}


@contextmanager
def serving(namespace: NetworkNamespace) -> Iterator[None]:
    """Answer every HTTP request, by IPv4 and IPv6, one after another."""
    listener = namespace.inside(
        lambda: socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    )

    def serve() -> None:
        with suppress(OSError):  # the listener was shut down
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(1)
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


@contextmanager
def network() -> Iterator[NetworkNamespace]:
    """Make a network with addresses that answer, that never do, and that lose the first SYN of each client."""
    with NetworkNamespace() as namespace:
        for address in (f"{ALIVE4}/32", f"{ALIVE6}/128 nodad", *(f"{address}/128 nodad" for address in SLOW6.values())):
            namespace.ip(f"addr add {address} dev lo")
        namespace.silent_neighbourhood("quiet", ["10.53.1.1/24", "2001:db8:1::1/64"])
        for address in (DEAD4, DEAD6):  # nobody has this hardware address
            namespace.ip(f"neigh add {address} lladdr 02:00:00:00:00:09 dev quiet nud permanent")
        lose = "tcp flags syn limit rate 1/hour burst 1 packets drop"
        rules = [f"add rule ip6 filter input ip6 daddr {address} {lose}" for address in SLOW6.values()]
        chain = "add chain ip6 filter input { type filter hook input priority 0; }"
        made = namespace.run(["nft", "; ".join(["add table ip6 filter", chain, *rules])])
        assert made.returncode == 0, made.stderr
        with namespace.popen(["sleep", "infinity"]) as somebody:  # the agent listens where somebody is
            try:
                yield namespace
            finally:
                somebody.kill()


class Runs:
    """Runs clients in a network while an agent looks on, and keeps their pids."""

    def __init__(self, namespace: NetworkNamespace, agent: RunningAgent, files: Path) -> None:
        self._namespace = namespace
        self._agent = agent
        self._files = {"resolv_conf": files / "resolv.conf", "hosts": files / "hosts"}
        self._files["resolv_conf"].write_text("nameserver 127.0.0.53\n")
        self._files["hosts"].write_text("")

    def start(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        command = self._namespace.command(with_files(argv, **self._files))
        nothing = subprocess.DEVNULL
        return subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)

    def run(self, argv: Sequence[str]) -> int:
        with self.start(argv) as process:
            process.wait(30)
        return process.pid

    def attempts(self, pid: int) -> list[dict[str, Any]]:
        """Return the log records of a process that went to the servers, in the order of their beginnings."""
        records = [one for one in self._agent.attempts(pid) if one["attributes"]["network.peer.port"] == PORT]
        return sorted(records, key=lambda one: int(one["timeUnixNano"]))

    def named(self) -> bool:
        """Say whether names are seen in the network: the agent hears of it by the first attempt from there."""
        pid = self.run(runtime("curl", "alive.test"))
        self._agent.until(lambda: bool(self.attempts(pid)))
        return bool(self.attempts(pid)[0]["attributes"]["server.address"] == "alive.test")


class Seen(NamedTuple):
    cases: dict[str, tuple[Case, list[dict[str, Any]]]]
    checks: list[dict[str, Any]]
    """What HAProxy did."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    files = tmp_path_factory.mktemp("etc")
    settings = files / "agent.toml"
    settings.write_text("".join(f'[[filter.deny]]\nport = "{ports}"\n' for ports in OTHER_PORTS))
    arguments = ("--output", "json", "--config", str(settings))
    agent = RunningAgent(*arguments, environment={"OTEL_CONNECT_LISTEN": "off"})
    with agent, network() as namespace, serving(namespace), Resolver(RECORDS, namespace):
        runs = Runs(namespace, agent, files)
        assert any(runs.named() for _ in range(50)), "no names are seen"
        with runs.start(haproxy(files / "haproxy.cfg")) as checking:
            agent.until(lambda: sum(map(given_up, runs.attempts(checking.pid))) >= CHECKS)
            checking.terminate()
        cases = {name: make() for name, make in CASES.items()}
        pids = {name: runs.run(case.argv) for name, case in cases.items()}
        assert agent.stop() == 0
        by_case = {name: (cases[name], runs.attempts(pid)) for name, pid in pids.items()}
        yield Seen(by_case, runs.attempts(checking.pid))


def given_up(record: dict[str, Any]) -> bool:
    return bool(record["attributes"]["otel_connect.outcome"] == "abandoned")


@pytest.mark.parametrize("name", CASES)
def test_only_what_another_address_of_its_server_overtook_is_superseded(seen: Seen, name: str) -> None:
    case, records = seen.cases[name]
    abandoned = [one for one in records if given_up(one)]
    assert [one["attributes"]["network.peer.address"] for one in abandoned] == case.given_up, records
    told = {(one["attributes"]["otel_connect.superseded"], one["severityText"]) for one in abandoned}
    assert told == {(True, "INFO") if case.superseded else (False, "WARN")}, records


def test_a_dead_member_of_a_pool_is_a_warning_whatever_its_health_checker_reaches(seen: Seen) -> None:
    reached = [one for one in seen.checks if one["attributes"]["otel_connect.outcome"] == "established"]
    abandoned = [one for one in seen.checks if given_up(one)]
    assert len(reached) >= CHECKS
    assert len(abandoned) >= CHECKS
    assert {one["attributes"]["network.peer.address"] for one in abandoned} == {DEAD4}
    told = {(one["attributes"]["otel_connect.superseded"], one["severityText"]) for one in abandoned}
    assert told == {(False, "WARN")}
