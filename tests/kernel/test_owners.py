"""Owners of processes with root directories of their own, against what those processes say of themselves.

Each client connects once and waits, or has ended before anybody looks.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from otel_connect.capture.kernel import KernelCapture
from otel_connect.config import CaptureConfig, EnrichConfig
from otel_connect.enrich.asking import NotYetError, start_reader
from otel_connect.enrich.enricher import Enricher
from otel_connect.model import ConnectEvent
from otel_connect.running import first_process, make_enricher
from tests.support.network import closed_port

UID = 33
OURS = "www-data"
CLIENT = """
import os, pwd, socket, sys
port, root = sys.argv[1:]
pwd.getpwall()
if root:
    os.chroot(root)
if os.geteuid() == 0 and "STAYS" not in os.environ:
    os.setresuid(33, 33, 33)
def name():
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""
print(name(), flush=True)
socket.socket().connect_ex(("127.0.0.1", int(port)))
print(flush=True)
sys.stdin.read()
"""


class Watch:
    """Names owners as the agent does."""

    def __init__(self, capture: KernelCapture, enricher: Enricher) -> None:
        self._capture = capture
        self._enricher = enricher

    def owners(self, pid: int) -> list[str | None]:
        """Return the owners of the attempts of a process that there are by now."""
        found: list[str | None] = []
        more = True
        while more:
            drained = self._capture.drain()
            self._enricher.learn(drained.told)
            found += [self._owner(event) for event in drained.events if event.pid == pid]
            more = drained.more
        return found

    def _owner(self, event: ConnectEvent) -> str | None:
        while True:
            try:
                return self._enricher.name(event, patient=True).process.owner
            except NotYetError:
                time.sleep(0.01)


@pytest.fixture(scope="module")
def watch() -> Iterator[Watch]:
    with KernelCapture(CaptureConfig(), 0) as capture, start_reader() as reader:
        reader.await_first()
        yield Watch(capture, make_enricher(EnrichConfig(), reader=reader, init=first_process(), backends=None))


@contextmanager
def client(*enter: str, root: Path | str = "", **environment: str) -> Iterator[tuple[int, str]]:
    """Run a client, entered in this way; gives its pid and the name that it has for itself once it has connected."""
    with closed_port() as port:
        argv = [*enter, sys.executable, "-I", "-c", CLIENT, str(port), str(root)]
        with subprocess.Popen(
            argv, stdin=-1, stdout=-1, text=True, env={"PATH": "/usr/sbin:/usr/bin:/bin"} | environment
        ) as child:
            assert child.stdout is not None
            name = child.stdout.readline().strip()
            child.stdout.readline()
            yield child.pid, name
            child.communicate()


def owner(watch: Watch, *enter: str, ended: bool, root: Path | str = "", **environment: str) -> tuple[str | None, str]:
    """Return the owner that an attempt gets, and the name that its process has for itself."""
    with client(*enter, root=root, **environment) as (pid, name):
        if not ended:
            [found] = watch.owners(pid)
    if ended:
        [found] = watch.owners(pid)
    return found, name


@pytest.fixture(scope="module")
def passwd() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # for all users to read
        (folder / "passwd").write_text("admin:x:0:0::/:/bin/sh\npostgres:x:33:33::/:/bin/sh\n")
        yield folder / "passwd"


@pytest.fixture
def root(tmp_path: Path, passwd: Path) -> Path:
    """Make a root directory whose database is a symbolic link."""
    tmp_path.chmod(0o755)
    (tmp_path / "etc").mkdir()
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "passwd").write_bytes(passwd.read_bytes())
    (tmp_path / "etc" / "passwd").symlink_to("/static/passwd")
    (tmp_path / "etc" / "nsswitch.conf").write_text("passwd: files\n")
    return tmp_path


def mounted(passwd: Path) -> list[str]:
    return ["sh", "-c", f'mount --bind {passwd} /etc/passwd && exec "$@"', "sh"]


@pytest.mark.parametrize("ended", [False, True])
def test_a_process_of_the_host_has_its_name_also_when_it_has_ended(ended: bool, watch: Watch) -> None:
    assert owner(watch, ended=ended) == (OURS, OURS)


def test_a_mount_namespace_with_the_same_database_changes_nothing(watch: Watch) -> None:
    assert owner(watch, "unshare", "--mount", ended=False) == (OURS, OURS)


def test_a_mount_namespace_with_another_database_has_its_name(watch: Watch, passwd: Path) -> None:
    enter = ["unshare", "--mount", *mounted(passwd)]
    assert owner(watch, *enter, ended=False) == ("postgres", "postgres")
    assert owner(watch, *enter, ended=True) == (None, "postgres"), "its database can be read no more"


def test_another_root_directory_has_its_own_database(watch: Watch, root: Path) -> None:
    assert owner(watch, ended=False, root=root) == ("postgres", "postgres")
    assert owner(watch, ended=True, root=root) == (None, "postgres")
    (root / "static" / "passwd").unlink()
    assert owner(watch, ended=False, root=root) == (None, "")


def test_inside_a_user_namespace_its_own_database_counts_by_its_own_numbers(watch: Watch, passwd: Path) -> None:
    enter = ["setpriv", f"--reuid={UID}", "--clear-groups", "unshare", "--user", "--map-root-user", "--mount"]
    stays = {"STAYS": "1"}
    assert owner(watch, *enter, *mounted(passwd), ended=False, **stays) == ("admin", "admin")


@pytest.mark.parametrize("ended", [False, True])
def test_a_user_namespace_with_the_root_of_the_host_has_the_names_of_the_host(ended: bool, watch: Watch) -> None:
    enter = ["setpriv", f"--reuid={UID}", "--clear-groups", "unshare", "--user", "--map-root-user"]
    found, _ = owner(watch, *enter, ended=ended, STAYS="1")
    assert found == OURS
