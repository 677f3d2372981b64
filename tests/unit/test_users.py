"""Whose user database a name comes from: the one of the process, or there is none."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.enrich.procfs import root_mount, user_inside
from otel_connect.enrich.rooted import Identity
from otel_connect.enrich.users import PASSWD, SWITCH, Databases, Init, Owner, Sources, Users, parse_passwd
from tests.support.rooted import process_in, sleeping, start_boot_ns

OWN_ROOT, INIT_ROOT, OTHER_ROOT = 28, 29, 400
AGENT, INIT, CLIENT, GONE = 100, 1, 200, 300


def file(inode: int) -> Identity:
    return Identity(1, inode, 1, 0)


class Host:
    """Files of processes, their user namespaces, and what the agent's own database says."""

    def __init__(self) -> None:
        self.passwd = {INIT: (file(5), {33: "alice"}), CLIENT: (file(6), {33: "postgres", 0: "root"})}
        self.switch: dict[int, tuple[Identity, object]] = {}
        self.own = {PASSWD: file(7), SWITCH: file(8)}
        self.inside = {CLIENT: {33: 33}}
        self.looks = 0

    def find(self, pid: int, _start: int) -> tuple[Identity, Mapping[int, str]] | None:
        self.looks += 1
        return self.passwd.get(pid)

    def users(self) -> Users:
        inside = self.inside
        sources = Sources(
            self.find,
            lambda pid, _start: self.switch.get(pid),
            lambda pid, _start, uid: inside.get(pid, {}).get(uid),
            self.own.get,
        )
        return Users({33: "www-data", 50: "by-ldap"}.get, Databases(sources).look, OWN_ROOT, Init(INIT_ROOT, INIT, 1))

    def name(self, pid: int, root: int | None, uid: int = 33) -> str | None:
        return self.users().name(Owner(uid, pid, 9, root))


@pytest.mark.parametrize("pid", [CLIENT, GONE])
def test_a_process_with_the_agents_root_has_its_database_also_when_it_has_gone(pid: int) -> None:
    assert Host().name(pid, OWN_ROOT) == "www-data"
    assert Host().name(pid, OWN_ROOT, 50) == "by-ldap"


@pytest.mark.parametrize("root", [OTHER_ROOT, None])
def test_a_process_with_another_root_has_its_own_file_or_no_name(root: int | None) -> None:
    assert Host().name(CLIENT, root) == "postgres"
    assert Host().name(CLIENT, root, 50) is None
    assert Host().name(GONE, root) is None


@pytest.mark.parametrize("pid", [CLIENT, GONE])
def test_a_process_with_the_root_of_the_host_is_looked_up_there_if_the_agent_is_elsewhere(pid: int) -> None:
    host = Host()
    host.inside[INIT] = {33: 33}
    assert host.name(pid, INIT_ROOT) == "alice"


def test_the_numbers_of_a_file_are_those_inside_the_user_namespace() -> None:
    host = Host()
    host.inside[CLIENT] = {100_033: 33, 1000: 0}
    assert host.name(CLIENT, OTHER_ROOT, 100_033) == "postgres"
    assert host.name(CLIENT, OTHER_ROOT, 1000) == "root"
    assert host.name(CLIENT, OTHER_ROOT, 33) is None, "a number that it has no name for, because it is not mapped"


def test_who_shares_the_agents_file_shares_its_numbers_and_with_the_same_switch_its_database() -> None:
    host = Host()
    host.own[PASSWD] = host.passwd[CLIENT][0]
    host.inside[CLIENT] = {1000: 33}
    assert host.name(CLIENT, OTHER_ROOT) == "postgres"
    assert host.name(CLIENT, OTHER_ROOT, 50) is None, "its nsswitch.conf may know no LDAP"
    host.switch[CLIENT] = file(9), None
    assert host.name(CLIENT, OTHER_ROOT, 50) is None
    host.switch[CLIENT] = file(8), None
    assert host.name(CLIENT, OTHER_ROOT, 50) == "by-ldap"


def test_the_databases_that_stay_are_asked_once_for_a_user_and_the_others_for_each_process() -> None:
    host = Host()
    users = host.users()
    for pid in range(1000):
        users.name(Owner(33, pid, 9, INIT_ROOT))
        users.name(Owner(33, pid, 9, OWN_ROOT))
    assert host.looks == 1
    users.name(Owner(33, CLIENT, 9, OTHER_ROOT))
    assert host.looks == 2


STRANGE = (b"ro\x1b[31mot:x:1:", b"ro\0ot:x:1:", b"a\xe2\x80\xaeb:x:1:")


@pytest.mark.parametrize(
    "line", [b"a", b"a:x", b"a:x:y:", b":x:1:", b"a:x::", b"+nis:x:1:", b"#a:x:1:", b"a:x:-1:", *STRANGE]
)
def test_lines_of_another_form_are_left_out(line: bytes) -> None:
    assert parse_passwd(line) == {}


def test_the_first_line_of_a_number_counts_and_names_are_bounded() -> None:
    content = b"a\xff:x:1:1::/:\nlate:x:1:1::/:\n" + b"n" * 257 + b":x:2:2\nb:x:4294967294"
    assert parse_passwd(content) == {1: "a\\xff", 4294967294: "b"}


@given(st.binary(max_size=400))
def test_any_content_is_read(content: bytes) -> None:
    assert all(name for name in parse_passwd(content).values())


def test_the_kernel_says_which_number_a_user_has_inside() -> None:
    with sleeping("unshare", "--user", "--map-root-user") as pid:
        start = start_boot_ns(pid)
        assert user_inside(pid, start, os.getuid()) == 0
        assert user_inside(pid, start, 33) is None
        assert user_inside(pid, start + 1_000_000_000, os.getuid()) is None
    assert user_inside(pid, start, os.getuid()) is None
    assert user_inside(os.getpid(), start_boot_ns(os.getpid()), 33) == 33


def test_a_root_directory_is_that_of_its_mount_only_at_the_top(tmp_path: Path) -> None:
    own = root_mount(os.getpid())
    assert own is not None
    with sleeping("env") as pid:
        assert root_mount(pid) == own
    with sleeping("unshare", "--mount") as pid:
        assert root_mount(pid) not in {own, None}
    with process_in(tmp_path) as pid:
        assert root_mount(pid) is None
    assert root_mount(pid) is None
