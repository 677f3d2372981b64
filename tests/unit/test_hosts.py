"""What /etc/hosts calls an address: the form of the file, and whose file it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.enrich.hosts import Hosts, HostsFile, parse_hosts, read_hosts

SECOND = 1_000_000_000


def own_start_boot_ns() -> int:
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return ticks * SECOND // os.sysconf("SC_CLK_TCK")


def test_the_first_name_of_the_first_line_counts() -> None:
    content = b"# none\n10.0.0.1\tDB.internal. db # the database\n10.0.0.1 late\n::ffff:10.0.0.2 mapped\nFD00::1 six\n"
    assert parse_hosts(content) == {"10.0.0.1": "db.internal", "10.0.0.2": "mapped", "fd00::1": "six"}


@pytest.mark.parametrize("line", [b"10.0.0.1", b"10.0.0 a", b"a b", b"", b"\xff\xfe x", b"10.0.0.1 " + b"n" * 300])
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
    """Gives the files of processes, and counts how often."""

    def __init__(self) -> None:
        self.files: dict[int, HostsFile] = {}
        self.reads = 0

    def __call__(self, pid: int, _start_boot_ns: int) -> HostsFile | None:
        self.reads += 1
        return self.files.get(pid)


def test_a_file_is_read_again_after_a_while_and_kept_of_a_process_that_has_gone() -> None:
    now, files = [0], Files()
    hosts = Hosts(files, lambda: now[0])
    files.files[1] = HostsFile((1, 1, 1, 1), b"10.0.0.1 old\n")
    assert [hosts.name(1, 9, "10.0.0.1") for _ in range(3)] == ["old"] * 3
    assert files.reads == 1
    files.files[1] = HostsFile((1, 1, 2, 1), b"10.0.0.1 new\n")
    now[0] += 3 * SECOND
    assert hosts.name(1, 9, "10.0.0.1") == "new"
    del files.files[1]
    now[0] += 3 * SECOND
    assert hosts.name(1, 9, "10.0.0.1") == "new"
    assert hosts.name(1, 8, "10.0.0.1") is None, "another process with its pid"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_has_no_name(address: str) -> None:
    files = Files()
    files.files[1] = HostsFile((1, 1, 1, 1), f"{address} localhost\n".encode())
    assert Hosts(files, lambda: 0).name(1, 9, address) is None


def test_the_file_of_a_process_is_that_of_its_root_directory(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "hosts").write_text("10.0.0.1 inside\n")
    script = f"import os; os.chroot({str(tmp_path)!r}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        ticks = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
        start = ticks * SECOND // os.sysconf("SC_CLK_TCK")
        found = read_hosts(child.pid, start)
        assert found is not None
        assert found.content == b"10.0.0.1 inside\n"
        assert read_hosts(child.pid, start + SECOND) is None, "another process with its pid"
        child.communicate(b"\n")


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe", "large", "none"])
def test_only_a_plain_file_of_moderate_size_is_read(kind: str, tmp_path: Path) -> None:
    process = tmp_path / str(os.getpid())
    etc = process / "root" / "etc"
    if kind == "folder link":
        (process / "root").mkdir(parents=True)
        etc.symlink_to("/etc")
    else:
        etc.mkdir(parents=True)
    (process / "stat").write_text(Path("/proc/self/stat").read_text())
    match kind:
        case "link":
            (etc / "hosts").symlink_to("/etc/hosts")
        case "pipe":
            os.mkfifo(etc / "hosts")
        case "large":
            (etc / "hosts").write_bytes(b"#" * ((1 << 18) + 1))
    assert read_hosts(os.getpid(), own_start_boot_ns(), proc=tmp_path) is None
    if kind == "none":
        (etc / "hosts").write_text("10.0.0.1 a\n")
        assert read_hosts(os.getpid(), own_start_boot_ns(), proc=tmp_path) is not None
