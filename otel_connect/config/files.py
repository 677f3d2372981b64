"""Files that a configuration names: regular ones of a bounded size, whose reading cannot wait for anybody.

Opening a named pipe waits for a writer, reading a terminal waits for a person, and ``/dev/zero`` has no end. A pipe, be
it ``/dev/stdin`` or a shell's ``<(…)``, would also have nothing to say the second time, when SIGHUP has everything read
again. So none of these is read; each is an OSError whose ``strerror`` says what was found.
"""

import errno
import os
import stat
from pathlib import Path

PEM_BYTES = 16 << 20
"""Of certificates and keys: more than the authorities of any system."""

_KINDS = {
    stat.S_IFIFO: "it is a pipe, not a regular file",
    stat.S_IFCHR: "it is a device, not a regular file",
    stat.S_IFBLK: "it is a device, not a regular file",
}


def read_file(path: Path, most_bytes: int) -> bytes:
    """Return the content of a regular file; raises OSError for what is none, is larger, or cannot be read."""
    descriptor = _open(path, most_bytes)
    content = b""
    try:
        # More than fstat() says: a file of /proc has no size.
        while part := os.read(descriptor, most_bytes + 1 - len(content)):
            content += part
    finally:
        os.close(descriptor)
    if len(content) > most_bytes:
        raise _too_large(path, most_bytes)
    return content


def check_file(path: Path, most_bytes: int) -> None:
    """Raise what ``read_file`` would raise before it reads: for a library that opens the file by itself."""
    os.close(_open(path, most_bytes))


def _open(path: Path, most_bytes: int) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    refusal = _refusal(path, os.fstat(descriptor), most_bytes)
    if refusal is not None:
        os.close(descriptor)
        raise refusal
    return descriptor


def _refusal(path: Path, about: os.stat_result, most_bytes: int) -> OSError | None:
    if stat.S_ISDIR(about.st_mode):
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(about.st_mode):
        return OSError(errno.EINVAL, _KINDS[stat.S_IFMT(about.st_mode)], str(path))
    return _too_large(path, most_bytes) if about.st_size > most_bytes else None


def _too_large(path: Path, most_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"it is larger than {most_bytes} bytes", str(path))
