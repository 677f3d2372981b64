"""Have the probes loaded by a child process, and take the descriptors that it sends."""

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from otel_connect.capture.child import Link, Loaded, Program
from otel_connect.errors import NotPermittedError, OtelConnectError, ProbeError, shortage

_CHILD = "otel_connect.capture.child"
_TIMEOUT_S = 300  # LLVM needs a third of a second, but minutes in an emulated machine whose host is busy
_BINDINGS = "python3-bpfcc (Debian, Ubuntu) or python3-bcc (Fedora)"


class Wanted(NamedTuple):
    """What is to be loaded."""

    numbers: Mapping[str, int]
    """Macros of the probes."""
    typed: Sequence[Program]
    """In the order in which they are attached."""
    links: Sequence[Link] = ()
    descriptors: Sequence[int] = ()
    """Those of the links that are descriptors."""


def load_probes(wanted: Wanted, probes: Path | None = None) -> Loaded:
    """Compile, load and attach the probes.

    ``probes`` is the directory with their sources, if it is not that of the package.

    The descriptors are the caller's to close; closing those of the hooks detaches. Raises ProbeError, and OSError when
    there are no descriptors or processes to be had.
    """
    probes = probes or probe_directory()
    order = {
        "program": str(probes / "connect.c"),
        "flags": [f"-D{name}={value}" for name, value in wanted.numbers.items()],
        "typed": wanted.typed,
        "links": wanted.links,
    }
    try:
        scratch = tempfile.mkdtemp(prefix="otel-connect-")  # 0700: bcc trusts what it finds in TMPDIR
    except OSError as error:
        raise ProbeError(
            f"no directory for temporary files can be written ({error.strerror});"
            " make /tmp writable (in a container with a read-only root: --tmpfs /tmp)"
        ) from error
    try:
        answer, descriptors, output = _ask_child(order, wanted.descriptors, probes, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if isinstance(answer, dict):
        raise _refusal(answer["cause"], answer["detail"], output)
    if len(descriptors) != sum(map(len, answer)):  # the kernel leaves out those for which there are no numbers
        close_all(descriptors)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    supply = iter(descriptors)
    return Loaded(*({name: next(supply) for name in names} for names in answer))


def close_all(descriptors: list[int]) -> None:
    """Close descriptors, and forget them."""
    while descriptors:
        os.close(descriptors.pop())


def probe_directory() -> Path:
    """Find the probes' sources: in the installed package, or beside it in a checkout."""
    packaged = Path(str(files("otel_connect"))) / "probes"
    return packaged if packaged.is_dir() else packaged.parents[1] / "probes"


def _ask_child(
    order: Mapping[str, object], descriptors: Sequence[int], probes: Path, scratch: str
) -> tuple[Any, list[int], str]:
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "TMPDIR": scratch,
        "BCC_KERNEL_SOURCE": str(probes),  # our few headers instead of the kernel's
    }
    here, there = socket.socketpair()
    with here, tempfile.TemporaryFile() as output:
        with there:
            child = subprocess.Popen(
                [sys.executable, "-I", "-m", _CHILD, str(there.fileno()), json.dumps(order)],
                pass_fds=[there.fileno(), *descriptors],
                env=environment,
                cwd="/",  # ours may be gone, and the compiler asks for it
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            here.settimeout(_TIMEOUT_S)
            message, received, _, _ = socket.recv_fds(here, 1 << 16, 64)
            child.wait(_TIMEOUT_S)
        except (TimeoutError, subprocess.TimeoutExpired):
            raise ProbeError(f"the probes did not load in {_TIMEOUT_S} s; is the machine overloaded?") from None
        finally:
            child.kill()
            child.wait()
        output.seek(0)
        written = output.read().decode("utf-8", "replace")
    if not message:
        return {"cause": "died", "detail": f"the loader ended with status {child.returncode}"}, [], written
    return json.loads(message), received, written


def _refusal(cause: str, detail: str, output: str) -> OtelConnectError:
    if cause == "absent":
        return ProbeError(
            f"the bcc bindings are absent ({detail}); install {_BINDINGS}"
            " and use an environment with system site packages"
        )
    if cause == "wrong":
        return ProbeError(
            f"{detail} is an unrelated package called bcc; uninstall it (pip uninstall bcc) and install {_BINDINGS}"
        )
    lines = output.splitlines()
    telling = [line.strip() for line in lines if "error:" in line or "ailed" in line] or lines or [detail]
    for said, kind, remedy in (*_CAUSES, *_SHORTAGES):
        if re.search(said, output + detail):
            return kind(f"the kernel refused the probes ({telling[0]}); {remedy}")
    return ProbeError(f"the probes could not be loaded: {detail}: {telling[0]}; please report this")


# What bcc and the system say, who can act on it, and how. EACCES alone is no lack of a privilege: the verifier
# says so, too.
_CAUSES: Sequence[tuple[str, type[ProbeError], str]] = (
    ("not permitted", NotPermittedError, "allow bpf and perf_event_open (capabilities, seccomp profile, lockdown)"),
    (
        r"perf_event_open\(\S+\): Permission denied",
        NotPermittedError,
        "kernel.perf_event_paranoid is stricter than CAP_PERFMON here: set it to 2, or grant CAP_SYS_ADMIN too",
    ),
    (
        "Function not implemented",
        ProbeError,
        "use a kernel with CONFIG_BPF_SYSCALL and CONFIG_PERF_EVENTS (a container's seccomp profile can say so, too)",
    ),
)
_SHORTAGES: Sequence[tuple[str, type[ProbeError], str]] = [
    (f"{os.strerror(code)}(?! in)", ProbeError, shortage(OSError(code, "")))
    for code in (errno.ENFILE, errno.EMFILE, errno.ENOMEM)
]
