"""What the agent says when it cannot work: one line with cause and remedy, its exit code, no traceback."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import refused_call
from tests.support.agent import COMMAND, RunningAgent

RUN = [str(COMMAND), "run", "--duration", "1"]


def refusal(argv: Sequence[str], exit_code: int, notes: int = 0) -> str:
    """Run something that must be refused, and return the one line that says so, after so many others."""
    pages_off = os.environ | {"OTEL_CONNECT_LISTEN": "off"}  # or a port that is taken would be said, too
    ended = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60, env=pages_off)
    assert ended.returncode == exit_code, ended.stderr
    assert ended.stdout == ""
    line = ended.stderr.splitlines()[-1]
    assert len(ended.stderr.splitlines()) == notes + 1
    return line.removeprefix("otel-connect: ")


def with_mounts(*mounts: str) -> list[str]:
    """Start the agent in a mount namespace of its own, in which other things are in some places."""
    script = " && ".join([*(f"mount {mount}" for mount in mounts), f"exec {shlex.join(RUN)}"])
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]


@pytest.mark.parametrize(
    ("dropped", "named"),
    [
        ("sys_admin,bpf,perfmon", "CAP_BPF and CAP_PERFMON missing"),
        ("sys_admin,bpf", "CAP_BPF missing"),
        ("sys_admin,perfmon", "CAP_PERFMON missing"),
    ],
)
def test_missing_capabilities(dropped: str, named: str) -> None:
    bounds = ",".join(f"-{name}" for name in dropped.split(","))
    line = refusal(["setpriv", f"--bounding-set={bounds}", f"--inh-caps={bounds}", *RUN], 77)
    assert named in line
    assert "run as root" in line


def test_an_ordinary_user() -> None:
    line = refusal(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", *RUN], 77)
    assert "run as root (sudo)" in line


def test_no_btf() -> None:
    line = refusal(with_mounts("-t tmpfs none /sys/kernel/btf"), 78)
    assert "/sys/kernel/btf/vmlinux cannot be read" in line
    assert "CONFIG_DEBUG_INFO_BTF" in line


def test_no_tracefs() -> None:
    debugfs = Path("/sys/kernel/debug")
    also = [f"-t tmpfs none {debugfs}"] if debugfs.is_dir() else []
    line = refusal(with_mounts("-t tmpfs none /sys/kernel/tracing", *also), 78)
    assert "mount -t tracefs nodev /sys/kernel/tracing" in line


@pytest.mark.parametrize(
    ("call", "error", "exit_code", "named"),
    [
        ("bpf", "EPERM", 77, ["seccomp", "--security-opt seccomp="]),
        ("bpf", "ENOSYS", 78, ["CONFIG_BPF_SYSCALL", "seccomp"]),
        ("bpf:0", "EMFILE", 78, ["bpf() failed (Too many open files)", "ulimit -n"]),
        # When the kernel is tried, before anything is compiled.
        ("bpf:5", "EMFILE", 78, ["the probes cannot be used (Too many open files)", "ulimit -n"]),
        ("bpf:5", "ENFILE", 78, ["the probes cannot be used (Too many open files in system)", "fs.file-max"]),
        ("bpf:5", "ENOMEM", 78, ["the probes cannot be used (Cannot allocate memory)", "no memory left"]),
        ("bpf:17", "ENFILE", 78, ["Too many open files in system", "fs.file-max"]),
        ("bpf:17", "ENOMEM", 78, ["Cannot allocate memory", "no memory left"]),
        ("bpf:5", "EPERM", 77, ["Failed to load program", "seccomp profile, lockdown"]),
        ("bpf:17", "EPERM", 77, ["raw_tracepoint", "seccomp profile, lockdown"]),
        ("perf_event_open", "EPERM", 77, ["perf_event_open", "seccomp profile"]),
        ("perf_event_open", "EACCES", 77, ["kernel.perf_event_paranoid", "CAP_SYS_ADMIN"]),
        ("perf_event_open", "ENOSYS", 78, ["CONFIG_PERF_EVENTS", "seccomp profile"]),
    ],
)
def test_a_call_refused_by_seccomp(call: str, error: str, exit_code: int, named: list[str]) -> None:
    line = refusal([sys.executable, refused_call.__file__, call, error, *RUN], exit_code)
    assert all(word in line for word in named), line


def test_a_user_namespace() -> None:
    line = refusal(["unshare", "--user", "--map-root-user", *RUN], 77)
    assert "user namespace" in line
    assert "root of the host" in line


def test_lockdown(tmp_path: Path) -> None:
    (tmp_path / "lockdown").write_text("none integrity [confidentiality]\n")
    line = refusal(with_mounts(f"--bind {tmp_path} /sys/kernel/security"), 77)
    assert "locked down (confidentiality)" in line
    assert "lockdown=integrity" in line


def test_no_proc() -> None:
    line = refusal(with_mounts("-t tmpfs none /proc"), 78, notes=1)
    assert "mount -t proc" in line


def test_no_place_for_temporary_files() -> None:
    # As they are, and read-only: the checkout may lie there.
    read_only = [
        mount
        for place in ("/tmp", "/var/tmp")  # noqa: S108 - not written to
        for mount in (f"--bind {place} {place}", f"-o remount,ro,bind {place}")
    ]
    line = refusal(["sh", "-c", f"cd / && exec {shlex.join(with_mounts(*read_only, '-o remount,ro,bind /'))}"], 78)
    assert "make /tmp writable" in line


@pytest.mark.parametrize("most", [8, 10, 12])  # for the reader, for the loader, for the probes
def test_too_few_descriptors(most: int) -> None:
    line = refusal(["prlimit", f"--nofile={most}", *RUN], 78)
    assert "Too many open files" in line
    assert "ulimit -n" in line


def user(*capabilities: str) -> list[str]:
    """Be an ordinary user with just these capabilities."""
    kept = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    drop = [f"--bounding-set={kept}", f"--inh-caps={kept}", f"--ambient-caps={kept}"]
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *drop]


def test_tracefs_of_another_user() -> None:
    line = refusal([*user("bpf", "perfmon"), *RUN], 77)
    assert "CAP_DAC_READ_SEARCH" in line


ENOUGH = {
    "root with nothing else": ["setpriv", "--bounding-set=-all,+bpf,+perfmon", "--inh-caps=-all"],
    "an ordinary user": user("bpf", "perfmon", "dac_read_search"),
    "no new privileges": ["setpriv", "--no-new-privs", *user("bpf", "perfmon", "dac_read_search")],
    "no locked memory": ["prlimit", "--memlock=0"],
}


@pytest.mark.parametrize("prefix", list(ENOUGH.values()), ids=list(ENOUGH))
def test_what_is_enough(prefix: list[str]) -> None:
    with RunningAgent("--output", "json", command=[*prefix, COMMAND, "run"]) as agent:
        client = subprocess.Popen(["curl", "--silent", "--max-time", "1", "http://127.0.0.1:1/"])
        client.wait()
        agent.until(lambda: len(agent.attempts(client.pid)) == 1)


def bindings() -> Path:
    found = subprocess.run(
        [sys.executable, "-c", "import bcc; print(bcc.__path__[0])"], check=True, capture_output=True, text=True
    )
    return Path(found.stdout.strip())


def test_bcc_absent(tmp_path: Path) -> None:
    configuration = Path(sys.prefix) / "pyvenv.cfg"
    closed = tmp_path / "pyvenv.cfg"
    closed.write_text(
        configuration.read_text().replace("include-system-site-packages = true", "include-system-site-packages = false")
    )
    line = refusal(with_mounts(f"--bind {closed} {configuration}"), 78)
    assert "the bcc bindings are absent" in line
    assert "python3-bpfcc" in line


def test_the_wrong_bcc(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text('"""An unrelated package that has the same name."""\n')
    line = refusal(with_mounts(f"--bind {tmp_path} {bindings()}"), 78)
    assert "unrelated package called bcc" in line
    assert "pip uninstall bcc" in line


def test_a_kernel_without_a_needed_member(tmp_path: Path) -> None:
    damaged = tmp_path / "vmlinux"
    damaged.write_bytes(Path("/sys/kernel/btf/vmlinux").read_bytes().replace(b"\0sk_err_soft\0", b"\0sk_err_hard\0"))
    # sysfs takes no bind mount on its own files, so the whole directory is replaced
    line = refusal(with_mounts(f"--bind {tmp_path} /sys/kernel/btf"), 78)
    assert "struct sock has no sk_err_soft" in line


def test_the_interpreter_of_this_test_is_that_of_the_command() -> None:
    # or the mounts above would hide nothing from it
    interpreter = Path(COMMAND.read_text().splitlines()[0].removeprefix("#!"))
    assert interpreter.parent == Path(sys.prefix) / "bin"
