"""The message that a process publishes of itself in its memory, read and not decoded (OTEP 4719).

The process maps a page named OTEL_CTX, which begins with a header::

    char     signature[8]     "OTEL_CTX", written last
    uint32   version          2
    uint32   payload_size
    uint64   published_at_ns  0 while it is being changed
    uint64   payload          where the protobuf message is

What is read belongs to another process, which may write anything, and at any
time: sizes are bounded, what changes while it is read is not taken, and only memory is read that no file system has to
bring: that of the process alone, or of the kernel's own one for shared memory.
"""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from otel_connect.enrich.procfs import is_process

Read = Callable[[int, int], bytes]
"""Reads at an address of a process so many bytes, or fewer; raises OSError, or OverflowError where none can be."""

_HEADER = struct.Struct("=8sIIQQ")
_SIGNATURE, _VERSION = b"OTEL_CTX", 2
_MOST_PAYLOAD = 64 << 10
_MOST_MAPS = 4 << 20
"""Of /proc/<pid>/maps, in bytes: about 40,000 mappings."""
_CHUNK = 64 << 10
_TRIES = 3
_DEVICE, _INODE = 3, 4
"""Where they are in a line of maps."""
# As it is called by memfd_create, by prctl after that, and by prctl alone.
_MAPPINGS = (b"/memfd:OTEL_CTX", b"[anon_shmem:OTEL_CTX]", b"[anon:OTEL_CTX]")


def published_message(pid: int, start_boot_ns: int, proc: Path = Path("/proc")) -> bytes | None:
    """Read the message that a process publishes; ``None`` when it does not, is gone or may not be read.

    A process with the same pid but another start time is another process.
    """
    here = proc / str(pid)
    try:
        address = _find(here / "maps")
        if address is None:
            return None
        with (here / "mem").open("rb", buffering=0) as memory:
            if not is_process(here, start_boot_ns):
                return None

            def read(at: int, size: int) -> bytes:
                # Looked at each time: the process may map a file there meanwhile.
                return os.pread(memory.fileno(), size, at) if _is_memory(here / "maps", at, size) else b""

            return read_payload(read, address)
    except (OSError, ValueError, OverflowError):
        return None


def read_payload(read: Read, address: int) -> bytes | None:
    """Read the message that the header at this address points to; ``None`` unless it is whole.

    Raises OSError where nothing can be read.
    """
    for _ in range(_TRIES):
        header = _whole(read, address, _HEADER.size)
        signature, version, size, published, payload = _HEADER.unpack(header)
        if signature != _SIGNATURE or version != _VERSION or not 0 < size <= _MOST_PAYLOAD:
            return None
        if not published:
            continue
        try:
            message = _whole(read, payload, size)
        except (OSError, OverflowError):
            message = b""
        if _whole(read, address, _HEADER.size) == header:
            return message or None
    return None


def _find(maps: Path) -> int | None:
    """Return where the mapping begins; raises OSError or ValueError."""
    with maps.open("rb", buffering=0) as file:
        for line in _lines(file, _SIGNATURE):
            if _SIGNATURE in line:
                fields = line.split(None, 5)
                if len(fields) > 5 and fields[5].removesuffix(b" (deleted)") in _MAPPINGS and _without_file(fields):
                    return int(fields[0].partition(b"-")[0], 16)
    return None


def _is_memory(maps: Path, address: int, size: int) -> bool:
    """Whether mappings without a file have all of these bytes; raises OSError or ValueError."""
    with maps.open("rb", buffering=0) as file:
        for line in _lines(file):
            fields = line.split(None, 5)
            begin, end = (int(one, 16) for one in fields[0].split(b"-"))
            if begin <= address < end:
                if not _without_file(fields):
                    return False
                size -= end - address
                address = end
            if size <= 0 or begin > address:
                break
    return size <= 0


def _without_file(fields: Sequence[bytes]) -> bool:
    return fields[_INODE] == b"0" or fields[_DEVICE] == _SHARED_MEMORY


def _shared_memory() -> bytes:
    """Return the device of the file system that memory without a file is shared by, as maps has it."""
    made = os.memfd_create("", os.MFD_CLOEXEC)
    try:
        device = os.fstat(made).st_dev
    finally:
        os.close(made)
    return b"%02x:%02x" % (os.major(device), os.minor(device))


_SHARED_MEMORY = _shared_memory()


def _lines(file: BinaryIO, wanted: bytes = b"") -> Iterator[bytes]:
    """Return those lines that may be of use, without splitting all of a file that has thousands."""
    rest = b""
    for _ in range(_MOST_MAPS // _CHUNK):
        chunk = file.read(_CHUNK)
        if not chunk:
            return
        whole, newline, rest = (rest + chunk).rpartition(b"\n")
        if newline and wanted in whole:
            yield from whole.split(b"\n")


def _whole(read: Read, address: int, size: int) -> bytes:
    found = read(address, size)
    if len(found) != size:
        raise OSError("cut short")
    return found
