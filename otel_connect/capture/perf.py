"""Perf buffers: one for each CPU, into which programs put what they find no other way for. The agent reads them.

The layout is that of ``perf_event_open(2)``: a page of positions, then the data, in which a record may wrap.
"""

import ctypes
import mmap
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from otel_connect.errors import ProbeError

_NUMBERS = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "loongarch64": 241, "s390x": 331, "ppc64le": 319}
_TYPE_SOFTWARE, _BPF_OUTPUT, _SAMPLE_RAW = 1, 10, 1 << 10
_WATERMARK = 1 << 14
# type, size, config, sample_period, sample_type, read_format, flags, wakeup_watermark
_ATTRIBUTES = struct.Struct("=IIQQQQQI12x")
_CLOEXEC = 8
_HEAD, _TAIL = 1024 // 8, 1032 // 8  # data_head and data_tail of struct perf_event_mmap_page, in words
_HEADER = struct.Struct("=IHH")
_RECORD_SAMPLE = 9
_SIZE = struct.Struct("=I")

_libc = ctypes.CDLL(None, use_errno=True)


class PerfBuffer:
    """The buffer of one CPU; close it when it is no longer used."""

    def __init__(self, cpu: int, size: int) -> None:
        """Open and map a buffer of ``size`` bytes, a power of two; raises OSError."""
        self.descriptor = _open(cpu, size)
        try:
            self._map = mmap.mmap(self.descriptor, mmap.PAGESIZE + size)
        except OSError:
            os.close(self.descriptor)
            raise
        self._words = memoryview(self._map)[: mmap.PAGESIZE].cast("Q")
        self._data = memoryview(self._map)[mmap.PAGESIZE :]
        self._mask = size - 1

    def close(self) -> None:
        """Give the buffer back."""
        self._words.release()
        self._data.release()
        self._map.close()
        os.close(self.descriptor)

    @property
    def empty(self) -> bool:
        """Whether everything has been read."""
        return self._words[_HEAD] == self._words[_TAIL]

    def samples(self, limit: int) -> Iterator[bytes]:
        """Read what programs have put in, so many records at the most, and make room for others."""
        head, position = self._words[_HEAD], self._words[_TAIL]
        while position < head and limit:
            kind, _, size = _HEADER.unpack(self._bytes(position, _HEADER.size))
            if kind == _RECORD_SAMPLE:
                limit -= 1
                (length,) = _SIZE.unpack(self._bytes(position + _HEADER.size, _SIZE.size))
                yield self._bytes(position + _HEADER.size + _SIZE.size, length)
            position += size
            self._words[_TAIL] = position

    def _bytes(self, position: int, length: int) -> bytes:
        start = position & self._mask
        first = bytes(self._data[start : start + length])
        return first if len(first) == length else first + bytes(self._data[: length - len(first)])


def online_cpus() -> Sequence[int]:
    """Return the numbers of the CPUs that are at work."""
    found: list[int] = []
    for part in Path("/sys/devices/system/cpu/online").read_text(encoding="ascii").strip().split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _open(cpu: int, size: int) -> int:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        machine = platform.machine()
        raise ProbeError(f"the number of perf_event_open() on {machine} is not known; use a supported machine")
    attributes = _ATTRIBUTES.pack(
        _TYPE_SOFTWARE,
        _ATTRIBUTES.size,
        _BPF_OUTPUT,
        1,
        _SAMPLE_RAW,
        0,
        _WATERMARK,
        size,  # read on a timer
    )
    opened = int(_libc.syscall(number, attributes, -1, cpu, -1, _CLOEXEC))
    if opened < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return opened
