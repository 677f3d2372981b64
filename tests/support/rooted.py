"""A process with a root directory of its own, in which a test makes the files."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCRIPT = "import os, sys; os.chroot(sys.argv[1]); print(flush=True); input()"
_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@contextmanager
def process_in(root: Path) -> Iterator[int]:
    """Run a process in this root directory as long as the context lasts; gives its pid."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _SCRIPT, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            yield child.pid
        finally:
            child.communicate(b"\n", timeout=30)


@contextmanager
def sleeping(*command: str) -> Iterator[int]:
    """Run a process, started by this command, as long as the context lasts; gives its pid."""
    with subprocess.Popen([*command, "sh", "-c", "echo; read _"], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            yield child.pid
        finally:
            child.communicate(b"\n", timeout=30)


def start_boot_ns(pid: int) -> int:
    """Return when a process began, as precisely as /proc says it."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[19]) * _NS_PER_TICK
