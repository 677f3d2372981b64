"""Files of another process, found the way that process finds them.

A container chooses what its paths lead to, so a path is resolved by the kernel inside the root directory of the
process (``openat2`` with ``RESOLVE_IN_ROOT``): symbolic links are followed, absolute ones too, and none leads out.
What is found is looked at before it is opened, because to open a device can already do something; it is opened only
if its content is not known from another process (docs/decisions/0055-whose-user-database.md).
"""

import ctypes
import os
import stat
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from cachetools import LRUCache

from otel_connect.enrich.procfs import is_process

MOST_BYTES = 1 << 18
"""A longer file is not read."""

_OPENAT2 = 437  # since Linux 5.6, the same number on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10

_libc = ctypes.CDLL(None, use_errno=True)

Parsed = TypeVar("Parsed")


class Identity(NamedTuple):
    """Which file it is, and in which state: as long as all of this stays the same, so does the content."""

    device: int
    inode: int
    changed_ns: int
    size: int


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class RootedFiles(Generic[Parsed]):
    """The files that processes have by one path; remembers what a bounded number of them says."""

    def __init__(self, path: str, parse: Callable[[bytes], Parsed], remembered: int = 64) -> None:
        self._path = path
        self._parse = parse
        self._parsed: LRUCache[Identity, Parsed] = LRUCache(remembered)

    def find(self, pid: int, start_boot_ns: int) -> tuple[Identity, Parsed] | None:
        """Return which file a process has, and what it says.

        ``None`` when the process is gone or may not be asked, or when there is no regular file of moderate size.
        """
        here = f"/proc/{pid}"
        descriptors = []
        try:
            descriptors.append(os.open(f"{here}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            descriptors.append(_find(descriptors[-1], self._path))
            about = os.fstat(descriptors[-1])
            if not stat.S_ISREG(about.st_mode) or about.st_size > MOST_BYTES:
                return None
            which = _identity(about)
            parsed = self._parsed.get(which)
            if parsed is None:
                found = f"/proc/self/fd/{descriptors[-1]}"
                descriptors.append(os.open(found, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
                content = os.read(descriptors[-1], about.st_size)  # what has no size, as in /proc, is not a file of it
                parsed = self._parsed[which] = self._parse(content)
            if not is_process(here, start_boot_ns):
                return None
        except OSError:
            return None
        finally:
            for one in descriptors:
                os.close(one)
        return which, parsed


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
