"""Where a process lives, told by the kernel: its cgroups, and of its environment what names a service."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cgroups import cgroup, hierarchies, own_cgroups
from tests.support.watch import Watching, once_program, open_watch

pytestmark = pytest.mark.captures

NAME = "OTEL_SERVICE_NAME"
ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES"
MUCH = "k8s.pod.name=shop," * 50  # 900 bytes


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    with once_program() as once:
        yield once


@pytest.fixture(scope="module")
def watching() -> Iterator[Watching]:
    with open_watch() as made:
        yield made


ENVIRONMENTS: dict[str, tuple[dict[str, str], dict[str, str] | None]] = {
    "none at all": ({}, {}),
    "no such variable": ({"PATH": "/bin"}, {}),
    "empty": ({NAME: ""}, {NAME: ""}),
    "both": ({NAME: "cart", "X": "y", ATTRIBUTES: "a=b"}, {NAME: "cart", ATTRIBUTES: "a=b"}),
    "names that only begin like them": ({NAME + "S": "x", "MY_" + NAME: "x", "OTEL_SERVICE": "x"}, {}),
    "values that look like them": ({"A": f"{NAME}=x", "B": f"x\n{NAME}=x"}, {}),
    "many others before": ({f"V{number}": "x" for number in range(200)} | {NAME: "cart"}, {NAME: "cart"}),
    "more others than are looked at": ({f"V{number}": "x" for number in range(300)} | {NAME: "cart"}, None),
    "a long one before": ({"LONG": "x" * 30_000, NAME: "cart"}, {NAME: "cart"}),
    "much of it": ({ATTRIBUTES: MUCH, NAME: "cart"}, {ATTRIBUTES: MUCH, NAME: "cart"}),
    "too much of it": ({NAME: "cart", ATTRIBUTES: MUCH * 2}, {NAME: "cart"}),
    "any bytes": ({NAME: "\udcff\x1b[31m"}, {NAME: "\\xff\x1b[31m"}),
} | {
    # The rest of a variable that is read block by block begins with what looks like another one.
    f"a look-alike {length} bytes inside": ({"A": "x" * (length - 2) + f"{NAME}=no", NAME: "cart"}, {NAME: "cart"})
    for length in (254, 255, 256, 510, 511)
}  # fmt: skip


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_of_the_environment_what_names_a_service(case: str, program: Path, watching: Watching) -> None:
    given, expected = ENVIRONMENTS[case]
    with watching() as (watch, port):
        with subprocess.Popen([program, str(port)], env=given) as client:
            pass
        [seen] = watch.take(client.pid)
    assert seen.surroundings.environment == tuple((expected or {}).items())
    # what could not be read to the end is to be looked up, what there is nothing of is not
    cut = case in {"more others than are looked at", "too much of it"}
    assert watch.asked == ([client.pid] if cut else [])


@pytest.mark.parametrize("name", ["plain", "n" * 255, "\udcff\x1b[31m \\", "docker-0123.scope:x"], ids=repr)
def test_cgroups_by_any_name(name: str, program: Path, watching: Watching) -> None:
    with watching() as (watch, port), cgroup(f"otc-{os.getpid()}/{name}/x"):
        expected = own_cgroups()
        with subprocess.Popen([program, str(port)]) as client:
            pass
        [seen] = watch.take(client.pid)
    shown = {kind: os.fsencode(path).decode("utf-8", "backslashreplace") for kind, path in expected.items()}
    assert seen.surroundings[:2] == (shown.get(""), shown.get("pids"))
    assert f"otc-{os.getpid()}" in str(seen.surroundings)


def test_a_cgroup_too_deep_to_be_told_is_looked_up(program: Path, watching: Watching) -> None:
    with watching() as (watch, port), cgroup("/".join([f"otc-{os.getpid()}", *["deep" * 50] * 6])):
        with subprocess.Popen([program, str(port)]) as client:
            pass
        [seen] = watch.take(client.pid)
    assert seen.surroundings[:2] == (None, None)
    assert watch.asked == [client.pid]


def test_a_private_namespace_of_cgroups_changes_nothing(program: Path, watching: Watching) -> None:
    with watching() as (watch, port), cgroup(f"otc-{os.getpid()}/inner"):
        expected = own_cgroups()
        with subprocess.Popen(["unshare", "--cgroup", program, str(port)]) as client:
            pass
        [seen] = watch.take(client.pid)
    assert seen.surroundings[:2] == (expected.get(""), expected.get("pids"))


def test_a_process_that_was_moved_is_found_where_it_is(watching: Watching) -> None:
    """By its cgroup of version 2: one that only moves in a v1 hierarchy is told of where it was first."""
    client = (
        "import socket, sys\n"
        "for _ in sys.stdin:\n"
        "    socket.socket().connect_ex(('127.0.0.1', int(sys.argv[1])))\n"
        "    print(flush=True)\n"
    )
    command = [sys.executable, "-c", client]
    with (
        watching() as (watch, port),
        subprocess.Popen([*command, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as mover,
    ):
        assert mover.stdin is not None
        assert mover.stdout is not None
        mounted = hierarchies()[""]
        folder = mounted / own_cgroups()[""].lstrip("/") / f"otc-{os.getpid()}-moved"
        folder.mkdir()
        places = []
        try:
            for home in (folder.parent, folder, folder.parent):
                (home / "cgroup.procs").write_text(str(mover.pid), encoding="utf-8")
                mover.stdin.write(b"\n")
                mover.stdout.readline()
                [seen] = watch.take(mover.pid)
                places.append(seen.surroundings.cgroup)
        finally:
            mover.stdin.close()
            mover.wait()
            folder.rmdir()
    own = own_cgroups()[""]
    assert places == [own, f"{own.rstrip('/')}/{folder.name}", own]
