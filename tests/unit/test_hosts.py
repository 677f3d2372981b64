"""What /etc/hosts calls an address: the form of the file, and whose file it is."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.enrich.hosts import Hosts, parse_hosts

SECOND = 1_000_000_000


def test_the_first_name_of_the_first_line_counts() -> None:
    content = b"# none\n10.0.0.1\tDB.internal. db # the database\n10.0.0.1 late\n::ffff:10.0.0.2 mapped\nFD00::1 six\n"
    assert parse_hosts(content) == {"10.0.0.1": "db.internal", "10.0.0.2": "mapped", "fd00::1": "six"}


STRANGE = (b"10.0.0.1 a\x1b[31mb", b"10.0.0.1 a\0b", b"10.0.0.1 a\xe2\x80\xaeb")


@pytest.mark.parametrize(
    "line", [b"10.0.0.1", b"10.0.0 a", b"a b", b"", b"\xff\xfe x", b"10.0.0.1 " + b"n" * 300, *STRANGE]
)
def test_lines_that_are_of_another_form_are_left_out(line: bytes) -> None:
    assert parse_hosts(line) == {}


@given(st.binary(max_size=400))
def test_any_content_is_read(content: bytes) -> None:
    for address, name in parse_hosts(content).items():
        assert address
        assert 0 < len(name) <= 253


def test_bytes_that_are_not_text_are_escaped() -> None:
    assert parse_hosts(b"10.0.0.1 a\xffb\n") == {"10.0.0.1": "a\\xffb"}


class Files:
    """Finds the files of processes, and counts how often."""

    def __init__(self) -> None:
        self.tables: dict[int, Mapping[str, str]] = {}
        self.looks = 0

    def __call__(self, pid: int, _start_boot_ns: int) -> Mapping[str, str] | None:
        self.looks += 1
        return self.tables.get(pid)


def test_a_file_is_looked_for_again_after_a_while_and_kept_of_a_process_that_has_gone() -> None:
    now, files = [0], Files()
    hosts = Hosts(files, lambda: now[0])
    files.tables[1] = {"10.0.0.1": "old"}
    assert [hosts.name(1, 9, "10.0.0.1") for _ in range(3)] == ["old"] * 3
    assert files.looks == 1
    files.tables[1] = {"10.0.0.1": "new"}
    now[0] += 3 * SECOND
    assert hosts.name(1, 9, "10.0.0.1") == "new"
    del files.tables[1]
    now[0] += 3 * SECOND
    assert hosts.name(1, 9, "10.0.0.1") == "new"
    assert hosts.name(1, 8, "10.0.0.1") is None, "another process with its pid"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_has_no_name(address: str) -> None:
    files = Files()
    files.tables[1] = {address: "localhost"}
    assert Hosts(files, lambda: 0).name(1, 9, address) is None
