"""The names of error numbers, as the kernel has them.

Python's table holds every name of the C library, among them second names for one number, and of two it keeps whichever
comes last: 95 is ENOTSUP there, a name that the kernel does not have. It lacks the numbers that the kernel uses inside
and that its tracepoints show.
"""

import errno
import os

# glibc's <errno.h> and the kernel's own define these as another name for a number that has one, on most architectures.
_SECOND_NAMES = ("EWOULDBLOCK", "EDEADLOCK", "ENOTSUP")
_HWPOISON = 133  # asm-generic/errno.h; Python 3.14 and later knows it, on every architecture
_INTERNAL = {  # include/linux/errno.h: the same on every architecture, and never given to a program
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    515: "ENOIOCTLCMD",
    516: "ERESTART_RESTARTBLOCK",
    517: "EPROBE_DEFER",
    518: "EOPENSTALE",
    519: "ENOPARAM",
    521: "EBADHANDLE",
    522: "ENOTSYNC",
    523: "EBADCOOKIE",
    524: "ENOTSUPP",
    525: "ETOOSMALL",
    526: "ESERVERFAULT",
    527: "EBADTYPE",
    528: "EJUKEBOX",
    529: "EIOCBQUEUED",
    530: "ERECALLCONFLICT",
}


def _names() -> dict[int, str]:
    numbers = {name: number for name, number in vars(errno).items() if name.startswith("E")}
    seconds = {name: numbers.pop(name) for name in _SECOND_NAMES if name in numbers}
    names = {number: name for name, number in numbers.items()}
    for name, number in seconds.items():  # where it is the only name of its number, it is the name
        names.setdefault(number, name)
    names.setdefault(_HWPOISON, "EHWPOISON")
    return names | _INTERNAL


_NAMES = _names()


def errno_name(number: int) -> str | None:
    """Return the kernel's name of an errno (``ECONNREFUSED``), ``None`` for a number that has none."""
    return _NAMES.get(number)


def errno_message(number: int) -> str:
    """Return the C library's text for an errno, and the name of one that only the kernel knows."""
    return _INTERNAL.get(number) or os.strerror(number)
