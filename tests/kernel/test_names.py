"""Names of peers, from a real name server and the resolvers of four runtimes to what the loop calls an attempt."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import dns.message
import dns.rrset
import pytest

from otel_connect.config import CaptureConfig
from otel_connect.model import Attempt, ServerName
from tests.support import runtimes
from tests.support.flood import Floods
from tests.support.naming import Naming, with_files
from tests.support.network import NetworkNamespace
from tests.support.resolver import Resolver

pytestmark = pytest.mark.captures

PORT = 8080
RECORDS = {
    "web.test": [("A", "127.0.0.80"), ("AAAA", "fd00:53::80")],
    "other.test": [("A", "127.0.0.80")],
    "alias.test": [("CNAME", "far.test")],
    "far.test": [("CNAME", "web.test")],
    "forged.test": [("A", "127.0.0.83")],
    "elsewhere.test": [("A", "127.0.0.84")],
    "host.test": [("A", "10.53.0.80")],
}
# Nobody listens at these addresses: a refused attempt is one like any other. At the end it waits to be let go.
PYTHON = """
import socket, sys
name, port, family = sys.argv[1], int(sys.argv[2]), {"4": socket.AF_INET, "6": socket.AF_INET6}[sys.argv[3]]
for found in socket.getaddrinfo(name, port, family, socket.SOCK_STREAM):
    with socket.socket(*found[:3]) as made:
        made.connect_ex(found[4])
sys.stdin.read()
"""
# Asks for the address of big.test, and connects to one that it was given before.
ASKS = """
import socket, sys
query = bytes.fromhex("000701000001000000000000") + b"\\3big\\4test\\0\\0\\1\\0\\1"
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    asking.connect(("127.0.0.53", 53))
    asking.send(query)
    with socket.socket() as made:
        made.connect_ex((sys.argv[1], int(sys.argv[2])))
sys.stdin.read()
"""
NODE = """
const [name, port] = process.argv.slice(1);
require("node:dns").resolve4(name, (error, found) => {
  if (error) throw error;
  require("node:net").connect({ host: found[0], port: Number(port) }).on("error", () => {});
});
"""


def python(name: str, family: int = 4) -> list[str]:
    return [os.path.realpath(sys.executable), "-c", PYTHON, name, str(PORT), str(family)]


def node(name: str) -> list[str]:
    found = shutil.which("node")
    assert found is not None, "node is needed for the tests"
    return [found, "-e", NODE, name, str(PORT)]


def other(runtime: str, name: str) -> list[str]:
    (found,) = [one for one in runtimes.available() if one.name == runtime]
    return found.argv(name, PORT, 1, 5000)


CLIENTS: dict[str, Callable[[str], list[str]]] = {
    "glibc": python,
    "go": lambda name: other("go", name),
    "c-ares": node,
    "java": lambda name: other("java", name),
}
"""What connects to a name; Go's client is built without cgo, so that it resolves by itself."""


class Place(NamedTuple):
    namespace: NetworkNamespace
    files: Path
    naming: Naming

    def named(self, argv: Sequence[str], *, server: str = "127.0.0.53", hosts: str = "") -> ServerName | None:
        """Run a client with such files in /etc, and return what its attempt is called."""
        return self.attempts(argv, 1, server=server, hosts=hosts)[0].named.server

    def attempts(
        self, argv: Sequence[str], count: int, *, server: str = "127.0.0.53", hosts: str = ""
    ) -> list[Attempt]:
        """Run a client with such files in /etc, and return its first attempts, so many."""
        (self.files / "resolv.conf").write_text(f"nameserver {server}\noptions timeout:5\n")
        (self.files / "hosts").write_text(hosts)
        mounted = {"resolv_conf": self.files / "resolv.conf", "hosts": self.files / "hosts"}
        command = self.namespace.command(with_files(argv, **mounted))
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            return self.naming.attempts(process.pid, count, PORT)
        finally:
            process.communicate(timeout=30)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with NetworkNamespace() as namespace, namespace.popen(["sleep", "infinity"]) as somebody:
        namespace.ip("addr add 10.53.0.80/32 dev lo")
        namespace.ip("addr add fd00:53::80/128 dev lo nodad")
        try:
            with Naming() as naming:
                yield Place(namespace, tmp_path_factory.mktemp("etc"), naming)
        finally:
            somebody.kill()


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", ["web.test", "alias.test"])
def test_an_attempt_has_the_name_that_its_process_asked_for(place: Place, client: str, name: str) -> None:
    with Resolver(RECORDS, place.namespace):
        assert place.named(CLIENTS[client](name)) == ServerName(name, "dns", "process")


@pytest.mark.parametrize("client", ["glibc", "go"])
def test_an_answer_too_long_for_a_datagram_is_read_from_the_connection(place: Place, client: str) -> None:
    with Resolver(RECORDS, place.namespace, truncated=True):
        assert place.named(CLIENTS[client]("web.test")) == ServerName("web.test", "dns", "process")


def many(count: int) -> list[tuple[str, str]]:
    return [("A", f"127.2.{number // 250}.{number % 250 + 1}") for number in range(count)]


@pytest.mark.parametrize("truncated", [True, False], ids=["by TCP", "by UDP"])
@pytest.mark.parametrize("count", [65, 256])
@pytest.mark.parametrize("client", ["glibc", "go"])
def test_an_answer_may_have_many_addresses(place: Place, client: str, count: int, truncated: bool) -> None:
    if client == "go" and not truncated:
        count = min(count, 70)  # its buffer for a datagram has 1232 bytes
    with Resolver({"many.test": many(count)}, place.namespace, truncated=truncated):
        assert place.named(CLIENTS[client]("many.test")) == ServerName("many.test", "dns", "process")


@pytest.mark.parametrize("kind", ["too many addresses", "lost"])
def test_who_was_told_what_nobody_can_read_does_not_get_the_name_of_another(place: Place, kind: str) -> None:
    few, big = many(60), many(300)
    with Resolver({"few.test": few}, place.namespace):
        assert place.named(python("few.test")) == ServerName("few.test", "dns", "process")
    if kind == "too many addresses":
        with Resolver({"big.test": big}, place.namespace, truncated=True):
            found = place.attempts(python("big.test"), len(big))
    else:  # nobody serves there any more
        found = place.attempts([os.path.realpath(sys.executable), "-c", ASKS, few[0][1], str(PORT)], 1)
    assert {one.named.server for one in found} == {None}
    # One that asked for nothing has it.
    assert place.named(python(few[0][1])) == ServerName("few.test", "dns", "namespace")


@pytest.mark.parametrize("server", ["127.0.0.53", "fd00:53::80"])
def test_addresses_of_version_6_have_names_too(place: Place, server: str) -> None:
    with Resolver(RECORDS, place.namespace, [server]):
        assert place.named(python("web.test", 6), server=server) == ServerName("web.test", "dns", "process")


@contextmanager
def translated(place: Place, server: str, way: str) -> Iterator[str]:
    """Have questions to an address answered by another one (DNAT), in the network namespace of who asks."""
    asked = "10.53.9.53"
    rules = (
        "add table ip translated; add chain ip translated out { type nat hook output priority -100; };"
        f" add rule ip translated out ip daddr {asked} udp dport 53 dnat to {server}"
    )
    place.namespace.ip(f"route add {asked}/32 {way}")
    assert place.namespace.run(["nft", rules]).returncode == 0
    try:
        yield asked
    finally:
        place.namespace.run(["nft", "delete table ip translated"])
        place.namespace.ip(f"route del {asked}/32")


def test_a_name_server_whose_address_is_translated(place: Place) -> None:
    """The packets bear the address that the question went to in the end, the socket the one that was asked for."""
    with NetworkNamespace() as beside:
        place.namespace.cable(beside, "moved", [("10.53.1.1/24", "10.53.1.53/24")])
        with (
            translated(place, "10.53.1.53", "via 10.53.1.53") as server,
            Resolver({"moved.test": [("A", "127.0.0.86")]}, beside, ["10.53.1.53"]),
        ):
            found = place.named(python("moved.test"), server=server)
    assert found == ServerName("moved.test", "dns", "process")


def test_a_translated_name_server_in_the_same_network_namespace(place: Place) -> None:
    """Its answers are translated back before they pass, its questions are not."""
    with (
        translated(place, "127.0.0.53", "dev lo") as server,
        Resolver({"moved.test": [("A", "127.0.0.87")]}, place.namespace),
    ):
        found = place.named(python("moved.test"), server=server)
    assert found == ServerName("moved.test", "dns", "process")


def test_two_names_of_an_address_belong_to_who_asked_for_them(place: Place) -> None:
    with Resolver(RECORDS, place.namespace):
        first = place.named(python("other.test"))
        second = place.named(python("web.test"))
    assert first == ServerName("other.test", "dns", "process")
    assert second == ServerName("web.test", "dns", "process")
    # One that did not ask has the latest.
    assert place.named(python("127.0.0.80")) == ServerName("web.test", "dns", "namespace")


def test_a_name_does_not_leave_its_network_namespace(place: Place) -> None:
    with Resolver(RECORDS, place.namespace):
        assert place.named(python("elsewhere.test")) is not None
    assert place.named(python("127.0.0.84")) == ServerName("elsewhere.test", "dns", "namespace")
    with NetworkNamespace() as beside:
        assert place._replace(namespace=beside).named(python("127.0.0.84")) is None


def test_what_a_flood_leaves_without_records_has_the_name_of_its_network_namespace(place: Place) -> None:
    config = CaptureConfig(process_rate=1, process_burst=8)
    with NetworkNamespace() as beside, Naming(config) as naming, Floods() as floods:
        with Resolver({"flood.test": [("A", "127.0.0.1")]}, place.namespace):
            assert place._replace(naming=naming).named(python("flood.test")) == ServerName(
                "flood.test", "dns", "process"
            )
        inside, outside = (
            floods.start("refused", 5000, namespace=namespace) for namespace in (place.namespace, beside)
        )
        assert naming.counted(inside.pid, 5000) == {ServerName("flood.test", "dns", "namespace"): 5000}
        assert naming.counted(outside.pid, 5000) == {None: 5000}
        assert naming.withheld(inside.pid) > 4000


def test_answers_that_nobody_asked_for_name_nothing(place: Place) -> None:
    def forge(answer: dns.message.Message) -> list[dns.message.Message]:
        answers = []
        for changed in ("identifier", "question"):
            forged = dns.message.from_wire(answer.to_wire())
            name = "forged.test." if changed == "identifier" else "evil.test."
            forged.answer = [dns.rrset.from_text(name, 300, "IN", "A", "127.0.0.90")]
            forged.question[0].name = forged.answer[0].name
            forged.id ^= changed == "identifier"
            answers.append(forged)
        return answers

    before = place.naming.names.ignored.get("unsolicited", 0)
    with Resolver(RECORDS, place.namespace, forge=forge):
        assert place.named(python("forged.test")) == ServerName("forged.test", "dns", "process")
    assert place.named(python("127.0.0.90")) is None
    assert place.naming.names.ignored["unsolicited"] - before == 2


def test_a_name_of_the_hosts_file_is_that_of_the_process(place: Place) -> None:
    hosts = "127.0.0.85 localname\n10.53.0.80 db.internal db\n"
    assert place.named(python("db"), hosts=hosts) == ServerName("db.internal", "hosts", "process")
    assert place.named(python("localname"), hosts=hosts) is None
    with Resolver(RECORDS, place.namespace):
        assert place.named(python("host.test"), hosts=hosts) == ServerName("host.test", "dns", "process")


def test_a_hosts_file_that_is_a_link_is_followed_inside_the_root_of_the_process(place: Place, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "hosts").write_text("10.53.0.80 db.internal\n")
    (tmp_path / "etc" / "hosts").symlink_to(tmp_path / "static" / "hosts")
    (tmp_path / "etc" / "nsswitch.conf").write_text("hosts: files\n")
    mounted = ["unshare", "--mount", "--", "sh", "-c", 'mount --bind "$0" /etc && exec "$@"', str(tmp_path / "etc")]
    assert place.named([*mounted, *python("db.internal")]) == ServerName("db.internal", "hosts", "process")


def test_a_namespace_that_appears_has_names_at_once(place: Place) -> None:
    with NetworkNamespace() as fresh, Resolver(RECORDS, fresh):
        assert place._replace(namespace=fresh).named(python("web.test")) == ServerName("web.test", "dns", "process")
