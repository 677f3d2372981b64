"""Names of peers, from a real name server and real resolvers to what the loop calls an attempt."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from otel_connect.model import ServerName
from tests.support.naming import Naming, with_files
from tests.support.network import NetworkNamespace
from tests.support.resolver import Resolver

PORT = 8080
RECORDS = {
    "web.test": [("A", "127.0.0.80"), ("AAAA", "::1")],
    "other.test": [("A", "127.0.0.80")],
    "alias.test": [("CNAME", "far.test")],
    "far.test": [("CNAME", "web.test")],
}
# What connects by name, as glibc has it: nobody listens, which is an attempt like any other.
PYTHON = """
import socket, sys
name, port, family = sys.argv[1], int(sys.argv[2]), sys.argv[3]
family = {"4": socket.AF_INET, "6": socket.AF_INET6}[family]
for found in socket.getaddrinfo(name, port, family, socket.SOCK_STREAM):
    with socket.socket(*found[:3]) as made:
        made.connect_ex(found[4])
"""


class Place(NamedTuple):
    namespace: NetworkNamespace
    resolv_conf: Path
    naming: Naming

    def ask(self, name: str, *, family: int = 4, **files: Path) -> ServerName | None:
        """Connect to a name, and return what the attempt is called."""
        argv = [os.path.realpath(sys.executable), "-c", PYTHON, name, str(PORT), str(family)]
        command = self.namespace.command(with_files(argv, resolv_conf=self.resolv_conf, **files))
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            assert process.wait(30) == 0
        return self.naming.attempts(process.pid, 1, PORT)[0].named.server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    resolv_conf = tmp_path_factory.mktemp("etc") / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.53\noptions timeout:2\n")
    with NetworkNamespace() as namespace, namespace.popen(["sleep", "infinity"]) as somebody:
        try:
            with Naming() as naming:
                naming.listened(namespace.inode)
                yield Place(namespace, resolv_conf, naming)
        finally:
            somebody.kill()


def test_an_attempt_has_the_name_that_its_process_asked_for(place: Place) -> None:
    with Resolver(RECORDS, place.namespace) as resolver:
        assert place.ask("web.test") == ServerName("web.test", "dns", "process")
        assert resolver.asked
