"""What the capture needs from this machine, looked at before anything is loaded.

Each refusal is one line with the cause and the remedy. The directories are arguments, so that a test can
show other ones.
"""

import errno
from pathlib import Path

from otel_connect.capture import bpf
from otel_connect.errors import NotPermittedError, ProbeError

BTF = Path("/sys/kernel/btf/vmlinux")
TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))

_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 1 << 21, 1 << 38, 1 << 39


def check() -> None:
    """Raise ProbeError or NotPermittedError for the first thing that is missing."""
    check_capabilities(_effective_capabilities())
    check_tracefs(TRACEFS)
    check_bpf()


def check_capabilities(effective: int) -> None:
    """Want CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, in a mask of effective capabilities."""
    if effective & _CAP_SYS_ADMIN:
        return
    missing = [name for name, bit in (("CAP_BPF", _CAP_BPF), ("CAP_PERFMON", _CAP_PERFMON)) if not effective & bit]
    if missing:
        raise NotPermittedError(
            f"not permitted to load probes: {' and '.join(missing)} missing; run as root (sudo), or grant"
            " CAP_BPF and CAP_PERFMON"
        )


def check_tracefs(mounts: tuple[Path, ...]) -> None:
    """Want the connect tracepoints in one of the places where tracefs is mounted."""
    for mount in mounts:
        try:
            (mount / "events/syscalls/sys_enter_connect/id").read_bytes()
        except PermissionError as error:
            raise NotPermittedError(
                f"not permitted to read {mount}; run as root, or grant CAP_DAC_READ_SEARCH too"
            ) from error
        except OSError:
            continue
        return
    if any((mount / "events").is_dir() for mount in mounts):
        raise ProbeError("this kernel has no syscall tracepoints (CONFIG_FTRACE_SYSCALLS); use a distribution's kernel")
    raise ProbeError(
        "tracefs is not mounted; mount it with: mount -t tracefs nodev /sys/kernel/tracing"
        " (in a container: -v /sys/kernel/tracing:/sys/kernel/tracing:ro)"
    )


def check_bpf() -> None:
    """Want bpf() to answer: container profiles and lockdown refuse it in spite of capabilities."""
    try:
        permitted = bpf.may_create_map()
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise ProbeError(
                "there is no bpf() here: use a kernel with CONFIG_BPF_SYSCALL"
                " (in a container, a seccomp profile can say so too)"
            ) from error
        raise ProbeError(f"bpf() failed ({error.strerror}); see docs/operations.md") from error
    if not permitted:
        raise NotPermittedError(
            "the kernel refused bpf() although the capabilities are there: a seccomp profile does;"
            " use one that allows bpf and perf_event_open (in a container: --security-opt seccomp=…)"
        )


def read_btf(path: Path = BTF) -> bytes:
    """Read the kernel's type information; raises ProbeError when it has none."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProbeError(
            f"{path} cannot be read ({error.strerror}): this kernel was built without BTF;"
            " use one with CONFIG_DEBUG_INFO_BTF (Debian 11, Ubuntu 20.10 and later have it)"
        ) from error


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
