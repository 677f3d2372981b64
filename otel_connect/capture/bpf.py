"""The bpf() system call, as far as maps and the counters of a program need it.

The agent holds map and program descriptors but not bcc, which lives only in the child that loads them.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator

from otel_connect.errors import ProbeError

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "s390x": 351, "ppc64le": 361}

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT_KEY, _INFO_BY_FD = 0, 1, 2, 3, 4, 15
_MAP_LOOKUP_AND_DELETE_BATCH = 25
_TYPE_ARRAY = 2

_ELEMENT = struct.Struct("=IxxxxQQQ")  # map_fd, key, value or next_key, flags
_BATCH = struct.Struct("=QQQQIIQQ")  # in_batch, out_batch, keys, values, count, map_fd, two kinds of flags
_COUNT_AT = 32
_INFO = struct.Struct("=IIQ")  # bpf_fd, info_len, info
_PROG_INFO_BYTES = 232
_RECURSION_MISSES_AT = 208  # of struct bpf_prog_info; since Linux 5.12

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> int:
    return _bpf_in_place(command, ctypes.create_string_buffer(attributes, len(attributes)))


def _bpf_in_place(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    """Call bpf() with attributes that the kernel may write to."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise ProbeError(f"the number of bpf() on {platform.machine()} is not known; use a supported machine")
    result = int(_libc.syscall(number, command, attributes, len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def may_create_map() -> bool:
    """Try to create a small map: whether bpf() is permitted; raises OSError for other failures."""
    try:
        os.close(_bpf(_MAP_CREATE, struct.pack("=IIIII", _TYPE_ARRAY, 4, 8, 1, 0)))
    except PermissionError:
        return False
    return True


class HashMap:
    """A hash map with 64-bit keys, by its descriptor."""

    def __init__(self, descriptor: int, value_bytes: int) -> None:
        self._descriptor = descriptor
        self._key = ctypes.create_string_buffer(8)
        self._next = ctypes.create_string_buffer(8)
        self._value = ctypes.create_string_buffer(value_bytes)

    def items(self) -> Iterator[tuple[int, bytes]]:
        """Walk over the entries; those that come or go meanwhile may be missed, none comes twice for long.

        The next key is asked for before an entry is given out, so the caller may delete it.
        """
        key = self._following(None)
        while key is not None:
            following = self._following(key)
            value = self.lookup(key)
            if value is not None:
                yield key, value
            key = following

    def count(self) -> int:
        """Count the entries; exact while none comes or goes."""
        entries = 0
        key = self._following(None)
        while key is not None:
            entries += 1
            key = self._following(key)
        return entries

    def lookup(self, key: int) -> bytes | None:
        """Return the value of a key, ``None`` when there is none."""
        struct.pack_into("=Q", self._key, 0, key)
        return bytes(self._value) if self._call(_MAP_LOOKUP, self._key, self._value) else None

    def delete(self, key: int) -> bool:
        """Delete an entry; False when someone else did first."""
        struct.pack_into("=Q", self._key, 0, key)
        return self._call(_MAP_DELETE, self._key, None)

    def _following(self, key: int | None) -> int | None:
        if key is not None:
            struct.pack_into("=Q", self._key, 0, key)
        if not self._call(_MAP_NEXT_KEY, None if key is None else self._key, self._next):
            return None
        return int.from_bytes(self._next.raw, sys.byteorder)

    def _call(self, command: int, key: ctypes.Array[ctypes.c_char] | None, value: object) -> bool:
        key_at = ctypes.addressof(key) if key is not None else 0
        value_at = ctypes.addressof(value) if isinstance(value, ctypes.Array) else 0
        try:
            _bpf(command, _ELEMENT.pack(self._descriptor, key_at, value_at, 0))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True


def put(descriptor: int, value: bytes) -> None:
    """Set the first element of an array.

    In an array of maps the value is a map's descriptor, and this returns only when no program that found the
    former map there is still at work.
    """
    key = ctypes.create_string_buffer(4)
    held = ctypes.create_string_buffer(value, len(value))
    _bpf(_MAP_UPDATE, _ELEMENT.pack(descriptor, ctypes.addressof(key), ctypes.addressof(held), 0))


def take_all(descriptor: int, key_bytes: int, value_bytes: int, limit: int) -> tuple[bytes, bytes]:
    """Remove every entry of a hash map, ``limit`` being its size: all keys and all values, one after another.

    Nobody else may be changing the map.
    """
    keys = ctypes.create_string_buffer(key_bytes * limit)
    values = ctypes.create_string_buffer(value_bytes * limit)
    position = ctypes.create_string_buffer(4)
    places = map(ctypes.addressof, (position, keys, values))
    attributes = ctypes.create_string_buffer(_BATCH.pack(0, *places, limit, descriptor, 0, 0), _BATCH.size)
    try:
        _bpf_in_place(_MAP_LOOKUP_AND_DELETE_BATCH, attributes)
    except OSError as error:
        if error.errno != errno.ENOENT:  # which says that it was the last batch
            raise
    (count,) = struct.unpack_from("=I", attributes, _COUNT_AT)
    return keys.raw[: count * key_bytes], values.raw[: count * value_bytes]


def recursion_misses(program: int) -> int:
    """How often the kernel skipped a program because another was running on that CPU (0 before 5.12)."""
    info = ctypes.create_string_buffer(_PROG_INFO_BYTES)
    _bpf(_INFO_BY_FD, _INFO.pack(program, _PROG_INFO_BYTES, ctypes.addressof(info)))
    return int(struct.unpack_from("=Q", info, _RECURSION_MISSES_AT)[0])
