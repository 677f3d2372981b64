"""The service: installed by the lines of docs/install.md, run by a real service manager with all restrictions."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_connect.model import Signal
from tests.support.collector import await_until, free_ports
from tests.support.manager import UNITS, Manager
from tests.support.network import NetworkNamespace, closed_port
from tests.support.receiver import HttpReceiver, Receiver
from tests.support.resolver import Resolver
from tests.support.status import Status

pytestmark = pytest.mark.timeout(600)  # the installation takes a minute on a busy machine

PROJECT = Path(__file__).parents[2]
EXAMPLES = PROJECT / "examples/systemd"
INSTALL = (PROJECT / "docs/install.md").read_text(encoding="utf-8")
SERVICE = "otel-connect.service"
SETTINGS = "/etc/otel-connect/otel-connect.toml"

CAPABILITIES = {"CAP_SETPCAP": 8, "CAP_SYS_PTRACE": 19, "CAP_PERFMON": 38, "CAP_BPF": 39}
CAP_NET_ADMIN = 12
QUESTION = bytes.fromhex("000701000001000000000000") + b"\3web\4test\0\0\1\0\1"
MOST_EXPOSURE = {"": 2.9, "local-collector.conf": 2.9, "conntrack.conf": 3.1}
"""What `systemd-analyze security` may give the unit with a drop-in; it differs a little from version to version."""


def documented(heading: str) -> list[str]:
    """Return the commands under a heading of the page, as root runs them."""
    _, _, rest = INSTALL.partition(f"\n## {heading}\n")
    section, _, _ = rest.partition("\n## ")
    blocks = re.findall(r"^```console\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert lines
    assert all(line.startswith("$ ") for line in lines)
    return [line.removeprefix("$ ").removeprefix("sudo ") for line in lines]


def settings(receiver: Receiver, status_port: int, more: str = "") -> str:
    """Return the shipped settings with the endpoint changed, which is all an operator must change."""
    shipped = (EXAMPLES / "otel-connect.toml").read_text(encoding="utf-8")
    changed = shipped.replace('"http://localhost:4318"', f'"{receiver.endpoint}"')
    assert changed != shipped
    # The port of the status pages is the host's: a service that is installed here may have the usual one.
    return f'{changed}{more}\n[serve]\nlisten = "127.0.0.1:{status_port}"\n'


def attempted(receiver: Receiver, port: int) -> bool:
    """Say whether an attempt of this process to that port has arrived."""
    bodies = [request.body for request in receiver.requests if request.signal is Signal.LOGS]
    for record in (
        record
        for body in bodies
        for resource in ExportLogsServiceRequest.FromString(body).resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ):
        found = {each.key: each.value.int_value for each in record.attributes}
        if (found.get("process.pid"), found.get("network.peer.port")) == (os.getpid(), port):
            return True
    return False


def connect(port: int) -> None:
    with socket.socket() as client:
        client.connect_ex(("127.0.0.1", port))


def state_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """Give a machine on which the documented lines have installed the service, which has not been started."""
    directory = tmp_path_factory.mktemp("machine")
    with Manager(directory) as manager:
        for command in documented("Install"):
            if not command.startswith(("systemctl", "/opt/otel-connect/bin/otel-connect health")):
                manager.must(command, cwd=PROJECT)
        # There is no journal: what the service says goes into a file.
        manager.write(
            f"{UNITS}/{SERVICE}.d/test.conf",
            f"[Service]\nTimeoutStartSec=60\nStandardError=append:{directory}/service.log\nRestartSec=0\nWatchdogSec=5\nTimeoutAbortSec=1\n",
        )
        manager.must("systemctl daemon-reload")
        yield manager


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with HttpReceiver() as receiver:
        yield receiver


@pytest.fixture
def status(manager: Manager, receiver: HttpReceiver) -> Iterator[Status]:
    """Start the service by the documented lines, and stop it at the end; gives its status pages."""
    [port] = free_ports(1)
    manager.write(SETTINGS, settings(receiver, port))
    start = [line for line in documented("Install") if line.startswith(("systemctl", "/opt/otel-connect/bin/otel-"))]
    for command in start:
        manager.must(command)
    yield Status(f"127.0.0.1:{port}")
    manager.run("systemctl stop otel-connect")
    assert manager.show(SERVICE, "Result") == "success"
    manager.must("systemctl reset-failed")


@pytest.mark.parametrize(("drop_in", "most"), MOST_EXPOSURE.items())
def test_the_unit_is_right_and_exposed_no_more_than_stated(tmp_path: Path, drop_in: str, most: float) -> None:
    unit = tmp_path / SERVICE
    text = (EXAMPLES / SERVICE).read_text(encoding="utf-8")
    unit.write_text(text.replace("/opt/otel-connect/bin/otel-connect", "/bin/true"), encoding="utf-8")
    if drop_in:
        folder = tmp_path / f"{SERVICE}.d"
        folder.mkdir()
        (folder / drop_in).write_bytes((EXAMPLES / drop_in).read_bytes())
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stdout) == (0, "")
    assert str(unit) not in verified.stderr
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={most * 10:.0f}"]
    rated = subprocess.run([*command, unit], capture_output=True, text=True, check=False)
    assert rated.returncode == 0, rated.stdout
    assert f"no more than {most}" in INSTALL


def test_it_captures_and_delivers_with_all_restrictions(
    manager: Manager, status: Status, receiver: HttpReceiver
) -> None:
    assert manager.show(SERVICE, "ActiveState") == "active"
    assert re.match("capturing|[0-9]+ attempts seen, 0 lost", manager.show(SERVICE, "StatusText"))
    with closed_port() as port:
        connect(port)
        await_until(lambda: attempted(receiver, port))
    pid = int(manager.show(SERVICE, "MainPID"))
    state = state_of(pid)
    assert (state["NoNewPrivs"], state["Seccomp"]) == ("1", "2")
    allowed = sum(1 << number for number in CAPABILITIES.values())
    assert int(state["CapBnd"], 16) & ~allowed == 0
    assert int(state["CapEff"], 16) == 0
    # Names of peers take nothing more, in whatever network namespace somebody asks.
    before = status.document()["enrichment"]["names"]["learned"]
    with NetworkNamespace() as place, Resolver({"web.test": [("A", "127.0.0.80")]}, place) as resolver:
        with place.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
            client.sendto(QUESTION, ("127.0.0.53", 53))
            assert client.recv(512)
        assert resolver.asked == ["web.test A"]
    await_until(lambda: status.document()["enrichment"]["names"]["learned"] > before)
    # In its own view of the files nothing can be written but what is its own.
    mounts = Path(f"/proc/{pid}/mounts").read_text(encoding="utf-8")
    options = {line.split()[1]: line.split()[3].split(",")[0] for line in mounts.splitlines()}
    assert (options["/"], options["/opt"], options["/var/lib/otel-connect"]) == ("ro", "ro", "rw")
    assert not list(Path(f"/proc/{pid}/root/home").iterdir())
    assert Path(f"/proc/{pid}/root/var/lib/otel-connect/spool/spool.db").exists()
    assert status.document()["ledger"]["logs"]["difference"] == 0


def test_a_reload_takes_what_is_right_and_says_what_is_wrong(
    manager: Manager, status: Status, receiver: HttpReceiver
) -> None:
    pid, port = manager.show(SERVICE, "MainPID"), status.address.port

    def reload(flush_interval_ms: int) -> bool:
        manager.write(SETTINGS, settings(receiver, port, f"flush_interval_ms = {flush_interval_ms}\n"))
        before = status.document()["last_reload"]
        manager.must("systemctl reload otel-connect")
        await_until(lambda: status.document()["last_reload"] != before)
        ok: bool = status.document()["last_reload"]["ok"]
        return ok

    assert reload(100)
    assert not reload(-1)
    assert (manager.show(SERVICE, "MainPID"), manager.show(SERVICE, "ActiveState")) == (pid, "active")
    with closed_port() as closed:
        connect(closed)
        await_until(lambda: attempted(receiver, closed))


@pytest.mark.usefixtures("status")
def test_the_watchdog_starts_a_hanging_agent_again(manager: Manager, receiver: HttpReceiver) -> None:
    pid = int(manager.show(SERVICE, "MainPID"))
    os.kill(pid, signal.SIGSTOP)
    await_until(lambda: manager.show(SERVICE, "NRestarts") == "1", 90)
    await_until(lambda: manager.show(SERVICE, "SubState") == "running", 90)
    assert int(manager.show(SERVICE, "MainPID")) != pid
    with closed_port() as closed:
        connect(closed)
        await_until(lambda: attempted(receiver, closed))


@pytest.fixture
def drop_in(manager: Manager, request: pytest.FixtureRequest) -> Iterator[None]:
    """Add a drop-in of examples/systemd to the service, which is stopped and without it at the end."""
    place = f"{UNITS}/{SERVICE}.d/{request.param}"
    manager.must(f"cp {EXAMPLES / request.param} {place} && systemctl daemon-reload")
    yield
    manager.run("systemctl stop otel-connect")
    manager.must(f"rm {place} && systemctl daemon-reload && systemctl reset-failed")


@pytest.mark.usefixtures("drop_in")
@pytest.mark.parametrize("drop_in", ["conntrack.conf"], indirect=True)
def test_the_connection_tracking_is_asked_where_that_is_wanted(manager: Manager, receiver: HttpReceiver) -> None:
    [port] = free_ports(1)
    manager.write(SETTINGS, settings(receiver, port, "[enrich]\nconntrack = true\n"))
    manager.must("systemctl start otel-connect")
    state = state_of(int(manager.show(SERVICE, "MainPID")))
    assert int(state["CapEff"], 16) >> CAP_NET_ADMIN & 1
    with closed_port() as closed:
        connect(closed)
        await_until(lambda: attempted(receiver, closed))


@pytest.mark.parametrize(
    ("drop_in", "exit_code"),
    [
        pytest.param("Environment=OTEL_EXPORTER_OTLP_TIMEOUT=soon", 2, id="configuration"),
        pytest.param("CapabilityBoundingSet=~CAP_PERFMON", 77, id="capability"),
        pytest.param("SystemCallFilter=~bpf", 77, id="system_call"),
        pytest.param("InaccessiblePaths=/sys/kernel/btf", 78, id="kernel"),
    ],
)
def test_what_starting_again_cannot_mend_is_not_started_again(
    manager: Manager, receiver: HttpReceiver, drop_in: str, exit_code: int
) -> None:
    [port] = free_ports(1)
    manager.write(SETTINGS, settings(receiver, port))
    broken = f"{UNITS}/{SERVICE}.d/broken.conf"
    manager.write(broken, f"[Service]\n{drop_in}\n")
    manager.must("systemctl daemon-reload")
    try:
        assert manager.run("systemctl start otel-connect").returncode != 0
        assert manager.show(SERVICE, "ActiveState") == "failed"
        assert (manager.show(SERVICE, "ExecMainStatus"), manager.show(SERVICE, "NRestarts")) == (str(exit_code), "0")
    finally:
        manager.must(f"rm {broken} && systemctl daemon-reload && systemctl reset-failed")


@pytest.mark.usefixtures("status")
def test_upgrade_goes_on_and_uninstall_leaves_only_data(manager: Manager, receiver: HttpReceiver) -> None:
    pid = manager.show(SERVICE, "MainPID")
    for command in documented("Upgrade"):
        manager.must(command, cwd=PROJECT)
    assert manager.show(SERVICE, "ActiveState") == "active"
    assert manager.show(SERVICE, "MainPID") != pid
    with closed_port() as closed:
        connect(closed)
        await_until(lambda: attempted(receiver, closed))
    for command in documented("Uninstall"):
        manager.must(command)
    assert manager.show(SERVICE, "ActiveState") == "inactive"
    left = manager.must("find /etc /opt /var/lib /usr/local -name '*otel-connect*' -newer /etc/hostname -maxdepth 4")
    units = {f"{UNITS}/{SERVICE}.d"}  # the drop-in of this test
    assert set(left.split()) - units == {"/etc/otel-connect", SETTINGS, "/var/lib/otel-connect"}
