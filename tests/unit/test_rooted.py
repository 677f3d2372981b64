"""Files of another process: found inside its root directory, wherever links lead, and never outside."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otel_connect.enrich.rooted import MOST_BYTES, read_file
from tests.support.rooted import process_in, start_boot_ns

SECOND = 1_000_000_000
INSIDE = b"inside\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a root directory; beside it lies what no link may reach."""
    (tmp_path / "secret").write_text("outside\n")
    made = tmp_path / "root"
    for folder in ("etc", "static/etc", "proc", "dev"):
        (made / folder).mkdir(parents=True)
    (made / "static/etc/hosts").write_bytes(INSIDE)
    return made


@pytest.fixture
def pid(root: Path) -> Iterator[int]:
    with process_in(root) as child:
        yield child


def read(pid: int) -> bytes | None:
    found = read_file(pid, start_boot_ns(pid), "/etc/hosts")
    return None if found is None else found.content


def link(target: str, at: str = "etc/hosts") -> Callable[[Path], None]:
    return lambda root: (root / at).symlink_to(target)


def linked_folder(root: Path) -> None:
    (root / "etc").rmdir()
    (root / "etc").symlink_to("/static/etc")


def chain(root: Path) -> None:
    link("/etc/second")(root)
    link("third", "etc/second")(root)
    link("../static/etc/hosts", "etc/third")(root)


FOUND: dict[str, Callable[[Path], object]] = {
    "a file": lambda root: (root / "etc/hosts").write_bytes(INSIDE),
    "an absolute link, as of NixOS": link("/static/etc/hosts"),
    "a relative link": link("../static/etc/hosts"),
    "more steps up than there are": link("../../../../../static/etc/hosts"),
    "a linked folder": linked_folder,
    "links to links": chain,
}


@pytest.mark.parametrize("kind", FOUND)
def test_a_file_is_found_as_its_process_finds_it(kind: str, root: Path, pid: int) -> None:
    FOUND[kind](root)
    assert read(pid) == INSIDE


def a_socket(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(root / "etc/hosts"))


NOT_FOUND: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _root: None,
    "a link that would lead out": link("../../secret"),
    "a link to what is only outside": lambda root: link(str(root.parent / "secret"))(root),
    "a link to nothing": link("/static/etc/nothing"),
    "a link to itself": link("hosts"),
    "a folder": lambda root: (root / "etc/hosts").mkdir(),
    "a pipe that nobody writes to": lambda root: os.mkfifo(root / "etc/hosts"),
    "a socket": a_socket,
    "a device": lambda root: os.mknod(root / "etc/hosts", 0o020666, os.makedev(1, 5)),
    "a large file": lambda root: os.truncate(root / "static/etc/hosts", MOST_BYTES + 1),
}


@pytest.mark.parametrize("kind", NOT_FOUND)
def test_only_a_regular_file_of_moderate_size_inside_is_read(kind: str, root: Path, pid: int) -> None:
    NOT_FOUND[kind](root)
    if kind == "a large file":
        link("/static/etc/hosts")(root)
    assert read(pid) is None


@pytest.mark.parametrize("target", ["/proc/self/root/secret", "/proc/self/cwd/secret", "/proc/1/root/etc/hostname"])
def test_links_of_proc_do_not_lead_out(target: str, root: Path) -> None:
    # The host's /proc, as a process has it that has only changed its root directory.
    subprocess.run(["mount", "--bind", "/proc", root / "proc"], check=True)
    try:
        link(target)(root)
        with process_in(root) as pid:
            assert read(pid) is None
    finally:
        subprocess.run(["umount", root / "proc"], check=True)


def test_what_proc_says_of_the_reader_is_not_read() -> None:
    assert (found := read_file(os.getpid(), start_boot_ns(os.getpid()), "/proc/self/environ")) is not None
    assert found.content == b""


def test_a_file_of_the_largest_size_is_read_whole(root: Path, pid: int) -> None:
    os.truncate(root / "static/etc/hosts", MOST_BYTES)
    link("/static/etc/hosts")(root)
    content = read(pid)
    assert content is not None
    assert len(content) == MOST_BYTES


def test_another_content_is_another_identity(root: Path, pid: int) -> None:
    link("/static/etc/hosts")(root)
    first = read_file(pid, start_boot_ns(pid), "/etc/hosts")
    (root / "static/etc/hosts").write_bytes(b"inside two\n")
    second = read_file(pid, start_boot_ns(pid), "/etc/hosts")
    assert first is not None
    assert second is not None
    assert first.identity != second.identity


def test_a_pid_that_is_used_again_is_another_process(root: Path, pid: int) -> None:
    link("/static/etc/hosts")(root)
    assert read_file(pid, start_boot_ns(pid), "/etc/hosts") is not None
    assert read_file(pid, start_boot_ns(pid) + SECOND, "/etc/hosts") is None


def test_a_process_that_has_gone_has_no_files(root: Path) -> None:
    with process_in(root) as pid:
        start = start_boot_ns(pid)
    assert read_file(pid, start, "/etc/hosts") is None


def test_descriptors_are_closed_whatever_is_found(root: Path, pid: int) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    for kind in ("a link to nothing", "a pipe that nobody writes to"):
        NOT_FOUND[kind](root)
        read(pid)
        (root / "etc/hosts").unlink()
    link("/static/etc/hosts")(root)
    read(pid)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
