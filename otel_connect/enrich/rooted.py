"""Files of another process, found the way that process finds them.

A container chooses what its paths lead to, so a path is resolved by the kernel inside the root directory of the
process (``openat2`` with ``RESOLVE_IN_ROOT``): symbolic links are followed, absolute ones too, and none leads out.
What is found is looked at before it is opened, because to open a device can already do something.
"""

import ctypes
import os
import stat
from pathlib import Path
from typing import NamedTuple

from otel_connect.enrich.procfs import is_process

MOST_BYTES = 1 << 18
"""A longer file is not read."""

_OPENAT2 = 437  # since Linux 5.6, the same number on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10

_libc = ctypes.CDLL(None, use_errno=True)


class Identity(NamedTuple):
    """Which file it is, and in which state: as long as all of this stays the same, so does the content."""

    device: int
    inode: int
    changed_ns: int
    size: int


class RootedFile(NamedTuple):
    """A file as it was when it was read."""

    identity: Identity
    content: bytes


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def read_file(pid: int, start_boot_ns: int, path: str, proc: Path = Path("/proc")) -> RootedFile | None:
    """Read a file by the path that a process has for it.

    ``None`` when the process is gone or may not be asked, or when there is no regular file of moderate size.
    """
    here = proc / str(pid)
    descriptors = []
    try:
        descriptors.append(os.open(here / "root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        descriptors.append(_find(descriptors[-1], path))
        about = os.fstat(descriptors[-1])
        if not stat.S_ISREG(about.st_mode) or about.st_size > MOST_BYTES:
            return None
        found = f"/proc/self/fd/{descriptors[-1]}"
        descriptors.append(os.open(found, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
        content = os.read(descriptors[-1], about.st_size)  # what has no size, as in /proc, is not a file of it
        if not is_process(here, start_boot_ns):
            return None
    except OSError:
        return None
    finally:
        for one in descriptors:
            os.close(one)
    return RootedFile(_identity(about), content)


def identity(path: str) -> Identity | None:
    """Say which file this process itself has by a path, in the same terms; ``None`` where there is none."""
    try:
        return _identity(os.stat(path))  # noqa: PTH116 - beside fstat, whose result it is like
    except OSError:
        return None


def _identity(about: os.stat_result) -> Identity:
    return Identity(about.st_dev, about.st_ino, about.st_ctime_ns, about.st_size)


def _find(root: int, path: str) -> int:
    """Return a descriptor of what is at a path below a root directory, without opening it; raises OSError."""
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    found = _libc.syscall(_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int(found)
