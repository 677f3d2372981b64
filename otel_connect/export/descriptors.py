"""Descriptors that stay open, in a process whose application closes what it does not know.

An application may close every descriptor it did not open, as daemons do, and open files of its own, which then have
the same numbers. Whoever writes by the number alone writes into those.
"""

import errno
import fcntl
import os
import resource
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from otel_connect.export.forks import GATE

Identity = tuple[int, int]
"""Device and inode: what tells one open file from another."""

_MOST_NUMBERS = 1 << 16  # the lowest that is free is taken, and to try a million takes a second
_RANGE = struct.Struct("hhqqi4x")  # struct flock


class Descriptor:
    """An open descriptor of ours, known by what it leads to."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._identity = identity(os.fstat(number))

    @property
    def ours(self) -> bool:
        """Whether the number still leads to what was opened."""
        try:
            return self._number >= 0 and identity(os.fstat(self._number)) == self._identity
        except OSError:
            return False

    @property
    def number(self) -> int:
        """The number; raises OSError when it leads to something else, or nowhere."""
        if not self.ours:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._number


class OwnDescriptor(Descriptor):
    """A descriptor that only this process may have: a child made by fork closes its copy, which may carry a lock."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        GATE.hold(self)

    def close(self) -> None:
        """Close it, unless its number is somebody else's by now; may be called twice."""
        if self.ours:
            os.close(self._number)
        self._number = -1
        GATE.let_go(self)  # last: a child made before knows of its copy, and one made after has none


def identity(status: os.stat_result) -> Identity:
    """Return what tells a file from another."""
    return status.st_dev, status.st_ino


def numbers_of(*paths: Path) -> set[int]:
    """Find the descriptors of this process that lead to files."""
    wanted, found = set(), set()
    for path in paths:
        with suppress(FileNotFoundError):
            wanted.add(identity(path.lstat()))
    for number in _numbers():
        with suppress(OSError):  # the one that the list was read by
            if identity(os.fstat(number)) in wanted:
                found.add(number)
    return found


def _numbers() -> Iterable[int]:
    """List what may be descriptors; without /proc, as in a chroot, all that there can be, within reason."""
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - names are all that is wanted
    except OSError:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return range(_MOST_NUMBERS if most == resource.RLIM_INFINITY else min(most, _MOST_NUMBERS))


def lock_bytes(path: Path, start: int, length: int) -> OwnDescriptor:
    """Open a file and lock some of its bytes, for writing; raises BlockingIOError when they are locked, or OSError.

    The lock conflicts with those of processes, and is itself one of the open file: nobody in this process can drop it
    by closing the file once.
    """
    with GATE.passage():  # no child has a lock that it does not know of
        descriptor = OwnDescriptor(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
    try:
        fcntl.fcntl(descriptor.number, fcntl.F_OFD_SETLK, _RANGE.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
    except BaseException:
        descriptor.close()
        raise
    return descriptor
