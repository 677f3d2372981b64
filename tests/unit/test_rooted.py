"""Files of another process: found inside its root directory, wherever links lead, and never outside."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otel_connect.enrich.procfs import root_mount
from otel_connect.enrich.rooted import MOST_BYTES, RootedFiles
from tests.support.rooted import process_in, sleeping, start_boot_ns

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


def read(pid: int, path: str = "/etc/hosts") -> bytes | None:
    found = RootedFiles(path, bytes).find(pid, start_boot_ns(pid))
    return None if found is None else found[1]


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
    assert read(os.getpid(), "/proc/self/environ") == b""


def test_a_file_of_the_largest_size_is_read_whole(root: Path, pid: int) -> None:
    os.truncate(root / "static/etc/hosts", MOST_BYTES)
    link("/static/etc/hosts")(root)
    content = read(pid)
    assert content is not None
    assert len(content) == MOST_BYTES


class Read:
    """The hosts files of processes, and the contents that had to be read for them."""

    def __init__(self, remembered: int = 64) -> None:
        self.contents: list[bytes] = []
        self._files = RootedFiles("/etc/hosts", self._parse, remembered)

    def of(self, pid: int, later_ns: int = 0) -> bytes | None:
        """Return what the file says to the process with this pid that began so much later than the one there is."""
        found = self._files.find(pid, start_boot_ns(pid) + later_ns)
        return None if found is None else found[1]

    def _parse(self, content: bytes) -> bytes:
        self.contents.append(content)
        return content


def test_a_file_is_read_once_for_all_processes_that_have_it(root: Path, pid: int) -> None:
    link("/static/etc/hosts")(root)
    read = Read()
    with process_in(root) as second, process_in(root / "static") as by_another_root:
        assert [read.of(one) for one in (pid, second, by_another_root)] == [INSIDE] * 3
    assert read.contents == [INSIDE]


def rewrite(root: Path) -> None:
    (root / "static/etc/hosts").write_bytes(b"SECOND\n")


def replace(root: Path) -> None:
    (root / "new").write_bytes(b"SECOND\n")
    (root / "new").rename(root / "static/etc/hosts")


def link_elsewhere(root: Path) -> None:
    (root / "elsewhere").write_bytes(b"SECOND\n")
    (root / "etc/hosts").unlink()
    link("/elsewhere")(root)


@pytest.mark.parametrize("change", [rewrite, replace, link_elsewhere])
def test_a_file_that_has_changed_is_read_again_although_it_is_as_long(
    change: Callable[[Path], None], root: Path, pid: int
) -> None:
    link("/static/etc/hosts")(root)
    read = Read()
    assert read.of(pid) == INSIDE
    change(root)
    assert [read.of(pid), read.of(pid)] == [b"SECOND\n"] * 2
    assert read.contents == [INSIDE, b"SECOND\n"]


def test_a_mount_that_has_the_number_of_one_that_has_gone_has_its_own_files(tmp_path: Path) -> None:
    # The kernel gives the lowest number that is free, so that of the last process is most often that of the next.
    read, seen = Read(), set[int | None]()
    for turn in range(100):
        (tmp_path / "hosts").write_text(f"10.0.0.1 turn-{turn}\n")
        with sleeping(
            "unshare", "--mount", "sh", "-c", f'mount --bind {tmp_path}/hosts /etc/hosts; exec "$@"', "sh"
        ) as pid:
            assert read.of(pid) == f"10.0.0.1 turn-{turn}\n".encode()
            if (mount := root_mount(pid)) in seen:
                return
            seen.add(mount)
    pytest.fail("no number came again")


def test_a_bounded_number_of_files_is_remembered(root: Path, pid: int) -> None:
    read = Read(remembered=2)
    for name in ("first", "second", "third"):
        (root / name).write_text(name)
    for name in ("first", "second", "first", "third", "first", "second"):
        (root / "etc/hosts").unlink(missing_ok=True)
        link(f"/{name}")(root)
        assert read.of(pid) == name.encode()
    assert read.contents == [b"first", b"second", b"third", b"second"]


def test_a_pid_that_is_used_again_is_another_process_also_where_the_file_is_known(root: Path, pid: int) -> None:
    link("/static/etc/hosts")(root)
    read = Read()
    assert [read.of(pid, SECOND), read.of(pid), read.of(pid, SECOND)] == [None, INSIDE, None]


def test_a_process_that_has_gone_has_no_files(root: Path) -> None:
    link("/static/etc/hosts")(root)
    files = RootedFiles("/etc/hosts", bytes)
    with process_in(root) as pid:
        start = start_boot_ns(pid)
        assert files.find(pid, start) is not None
    assert files.find(pid, start) is None


def test_descriptors_are_closed_whatever_is_found(root: Path, pid: int) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    for kind in ("a link to nothing", "a pipe that nobody writes to"):
        NOT_FOUND[kind](root)
        read(pid)
        (root / "etc/hosts").unlink()
    link("/static/etc/hosts")(root)
    once = Read()
    assert [once.of(pid), once.of(pid)] == [INSIDE] * 2
    assert sorted(Path("/proc/self/fd").iterdir()) == before
