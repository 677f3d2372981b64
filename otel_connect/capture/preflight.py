"""What the capture needs from this machine, looked at before anything is loaded.

Each refusal is one line with the cause and the remedy. The directories are arguments, so that a test can
show other ones.
"""

import errno
from pathlib import Path

from otel_connect.capture import bpf
from otel_connect.errors import NotPermittedError, ProbeError, shortage

BTF = Path("/sys/kernel/btf/vmlinux")
TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
LOCKDOWN = Path("/sys/kernel/security/lockdown")
USER_NAMESPACE = Path("/proc/self/ns/user")

_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 1 << 21, 1 << 38, 1 << 39
_FIRST_USER_NAMESPACE = 0xEFFFFFFD  # its inode, on every kernel: PROC_USER_INIT_INO of linux/proc_ns.h


def check(*, calls: bool) -> None:
    """Raise ProbeError or NotPermittedError for the first thing that is missing; ``calls``: for tracepoints, too."""
    effective = effective_capabilities()
    check_user_namespace(USER_NAMESPACE)
    check_capabilities(effective)
    check_lockdown(LOCKDOWN)
    if calls:
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


def may_call_bpf(effective: int) -> bool:
    """Tell whether a mask of effective capabilities has what bpf() asks for."""
    return bool(effective & (_CAP_SYS_ADMIN | _CAP_BPF))


def check_user_namespace(link: Path) -> None:
    """Want the first user namespace: the capabilities of all others end at their own border."""
    try:
        first = link.stat().st_ino == _FIRST_USER_NAMESPACE
    except OSError:
        return  # a kernel without user namespaces
    if not first:
        raise NotPermittedError(
            "this is a user namespace (a rootless container?), whose capabilities do not reach the host's kernel;"
            " run as root of the host (docker: --userns=host; podman: with sudo)"
        )


def check_lockdown(state: Path) -> None:
    """Want a kernel whose memory programs may read; where securityfs is not mounted, loading will show."""
    try:
        locked = "[confidentiality]" in state.read_text(encoding="ascii", errors="replace")
    except OSError:
        return
    if locked:
        raise NotPermittedError(
            "this kernel is locked down (confidentiality): no program may read its memory;"
            " boot with lockdown=integrity, which is enough for Secure Boot"
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
    """Want bpf() to answer a process that has the capabilities: the profile of a container may refuse it."""
    try:
        permitted = bpf.may_create_map()
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise ProbeError(
                "there is no bpf() here: use a kernel with CONFIG_BPF_SYSCALL"
                " (in a container, a seccomp profile can say so too)"
            ) from error
        remedy = shortage(error) or "see docs/troubleshooting.md"
        raise ProbeError(f"bpf() failed ({error.strerror}); {remedy}") from error
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


def effective_capabilities() -> int:
    """Return the mask of this process's effective capabilities; raises ProbeError without /proc."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise ProbeError(f"/proc cannot be read ({error.strerror}); mount it with: mount -t proc proc /proc") from error
    return next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)
