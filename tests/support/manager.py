"""A service manager of a test's own, on a view of this machine of which nothing is left.

The view is a mount namespace in which ``/etc``, ``/opt``, ``/usr/local`` and ``/var`` are overlays, so commands for
administrators can be run as they are written. The manager is systemd in user mode, but as root: it applies
what units say as the one with pid 1 does, but for devices, memory and addresses, which take a control group of
the system's manager. Its state and configuration directories are both ``/var/lib``.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.collector import await_until

OVERLAID = ("/etc", "/opt", "/usr/local", "/var")
RUNTIME = "/var/lib/run"  # services with ProtectHome= do not see /run/user, and all see another /run/systemd
UNITS = "/etc/systemd/system"
_SYSTEMD = "/lib/systemd/systemd"
_START_STOP_S = 60.0

# What the system's manager makes at boot, and what sd_booted(3) looks for.
_VIEW = """
set -eu
for place in {overlaid}; do
    mkdir -p "$0$place/upper" "$0$place/work"
    mount -t overlay overlay -o "lowerdir=$place,upperdir=$0$place/upper,workdir=$0$place/work" "$place"
done
mkdir -p /run/systemd
mount -t tmpfs tmpfs /run/systemd
mkdir -m 0700 {runtime}
mkdir -p /run/systemd/system /run/systemd/inaccessible/dir /usr/local/bin {units}
cd /run/systemd/inaccessible
touch reg sock
mkfifo fifo
mknod chr c 0 0
mknod blk b 0 0
chmod 0 *
printf '#!/bin/sh\\nexec /usr/bin/systemctl --user "$@"\\n' >/usr/local/bin/systemctl
chmod +x /usr/local/bin/systemctl
echo ready
exec sleep infinity
"""
_MANAGER = """
set -eu
for place in "$@"; do echo $$ >"$place/cgroup.procs"; done
exec {systemd} --user --unit=basic.target
"""


class Manager:
    """The view and its service manager; leaving the context ends both and every service."""

    def __init__(self, directory: Path) -> None:
        """Prepare one that keeps what is written, and the manager's log, in this directory."""
        self.log = directory / "manager.log"
        self._directory = directory
        self._view: subprocess.Popen[str] | None = None
        self._manager: subprocess.Popen[bytes] | None = None
        self._groups = [group / f"otel-connect-test-{os.getpid()}" for group in _control_groups()]
        # What an administrator's shell may have, a package index say, is not for the manager and its services.
        foreign = ("OTEL_", "XDG_", "SYSTEMD_", "NOTIFY_", "DBUS_")
        self._shell = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self._bare = {
            "HOME": "/root",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "XDG_RUNTIME_DIR": RUNTIME,
            "XDG_CONFIG_HOME": "/var/lib",
            "XDG_STATE_HOME": "/var/lib",
            "SYSTEMD_UNIT_PATH": f"{UNITS}:/usr/lib/systemd/user",
            "SYSTEMD_LOG_TARGET": "console",
        }

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is not None and self.log.exists():
            value.add_note(f"the manager's log ends with:\n{self.log.read_text(errors='replace')[-4000:]}")
        self._end()

    def run(self, command: str, *, cwd: Path = Path("/")) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the view of the machine, as root; it may fail."""
        return subprocess.run(
            [*self._inside(), "sh", "-c", f'cd "$0" && {command}', str(cwd)],
            env=self._shell | self._bare,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def must(self, command: str, *, cwd: Path = Path("/")) -> str:
        """Run a command that must succeed, and return what it says."""
        ended = self.run(command, cwd=cwd)
        assert ended.returncode == 0, f"{command}: {ended.stderr}{ended.stdout}"
        return ended.stdout.strip()

    def write(self, path: str, text: str) -> None:
        """Write a file of root's on the view of the machine."""
        script = 'mkdir -p "$(dirname "$0")" && cat >"$0"'
        subprocess.run([*self._inside(), "sh", "-c", script, path], input=text, text=True, check=True)

    def show(self, unit: str, name: str) -> str:
        """Return one property of a unit."""
        return self.must(f"systemctl show --property={name} --value {unit}")

    def _start(self) -> None:
        script = _VIEW.format(overlaid=" ".join(OVERLAID), runtime=RUNTIME, units=UNITS)
        command = ["unshare", "--mount", "--propagation=private", "sh", "-c", script, str(self._directory)]
        self._view = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._view.stdout is not None
        assert self._view.stdout.readline() == "ready\n"
        for group in self._groups:
            group.mkdir()
        script = _MANAGER.format(systemd=_SYSTEMD)
        with self.log.open("ab") as log:
            self._manager = subprocess.Popen(
                [*self._inside(), "sh", "-c", script, "sh", *map(str, self._groups)],
                env=self._bare,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        await_until(self._answers, _START_STOP_S)

    def _answers(self) -> bool:
        assert self._manager is not None
        assert self._manager.poll() is None, self.log.read_text(errors="replace")
        return self.run("systemctl is-active basic.target").stdout == "active\n"

    def _inside(self) -> list[str]:
        assert self._view is not None
        return ["nsenter", f"--mount=/proc/{self._view.pid}/ns/mnt"]

    def _end(self) -> None:
        if self._manager is not None and self._manager.poll() is None:
            self._manager.send_signal(signal.SIGTERM)
            try:
                self._manager.wait(_START_STOP_S)
            except subprocess.TimeoutExpired:
                self._manager.kill()
                self._manager.wait()
        if self._view is not None:
            self._view.kill()
            self._view.wait()
            if self._view.stdout is not None:
                self._view.stdout.close()
        for group in self._groups:
            _remove(group)
        for place in OVERLAID:
            shutil.rmtree(f"{self._directory}{place}", ignore_errors=True)


def _control_groups() -> list[Path]:
    """Return where the manager needs a control group of its own: version 2, or its own hierarchy and version 2."""
    root = Path("/sys/fs/cgroup")
    beside_version_1 = [place for name in ("systemd", "unified") if (place := root / name).is_dir()]
    return [root] if (root / "cgroup.procs").exists() else beside_version_1


def _remove(group: Path) -> None:
    """Remove a control group with those in it, after the last process of them is gone."""
    if not group.exists():
        return
    for below in group.iterdir():
        if below.is_dir():
            _remove(below)
    for pid in (group / "cgroup.procs").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    await_until(lambda: not (group / "cgroup.procs").read_text(), _START_STOP_S)
    group.rmdir()
