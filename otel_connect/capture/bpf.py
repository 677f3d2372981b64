"""The bpf() system call, as far as maps and the counters of a program need it.

The agent holds map and program descriptors but not bcc, which lives only in the child that loads them.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from enum import IntEnum

from otel_connect.errors import ProbeError, shortage

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "s390x": 351, "ppc64le": 361}

_MAP_CREATE, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD, _INFO_BY_FD, _RAW_TRACEPOINT_OPEN = 0, 2, 3, 5, 15, 17
_MAP_LOOKUP_BATCH, _MAP_LOOKUP_AND_DELETE_BATCH = 24, 25
_TYPE_ARRAY, _TYPE_PERF_EVENT_ARRAY = 2, 4

_ELEMENT = struct.Struct("=IxxxxQQQ")  # map_fd, key, value or next_key, flags
_BATCH = struct.Struct("=QQQQIIQQ")  # in_batch, out_batch, keys, values, count, map_fd, two kinds of flags
_COUNT_AT = 32
_BATCH_ENTRIES = 1024  # more than any bucket has
_KEY = struct.Struct("=Q")
_INDEX = struct.Struct("=I")
_INFO = struct.Struct("=IIQ")  # bpf_fd, info_len, info
_TYPE_TRACING = 26
_LICENCE = b"Dual MIT/GPL"
_NOTHING = struct.pack("=BBxxiBBxxi", 0xB7, 0, 0, 0x95, 0, 0)  # r0 = 0; exit
# prog_type, insn_cnt, insns, license, log_level, log_size, log_buf, prog_name, expected_attach_type, attach_btf_id
_PROG = struct.Struct("=IIQQIIQ8x16s4xI36xI4x")
_NAME_BYTES = 15
_LOG_BYTES = 1 << 24
_PROG_INFO_BYTES = 232
_RECURSION_MISSES_AT = 208  # of struct bpf_prog_info; since Linux 5.12


class Attach(IntEnum):
    """What a tracing program is attached to: enum bpf_attach_type."""

    RAW_TRACEPOINT = 23
    FENTRY = 24
    FEXIT = 25


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


def create_perf_array(entries: int) -> int:
    """Create a map of perf buffers by CPU, and return its descriptor; raises OSError."""
    return _bpf(_MAP_CREATE, struct.pack("=IIIII", _TYPE_PERF_EVENT_ARRAY, 4, 4, entries, 0))


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
        self._value_bytes = value_bytes

    def items(self) -> Iterator[tuple[int, bytes]]:
        """Walk over the entries once, however they come and go; those that do meanwhile may be missed.

        They are read ahead: an entry may be another, or gone, when it is given out.
        """
        for keys, values in self._batches():
            for place, (key,) in enumerate(_KEY.iter_unpack(keys)):
                yield key, values[place * self._value_bytes : (place + 1) * self._value_bytes]

    def count(self) -> int:
        """Count the entries; exact while none comes or goes."""
        return sum(len(keys) // _KEY.size for keys, _ in self._batches())

    def delete(self, key: int) -> bool:
        """Delete an entry; False when someone else did first."""
        return remove(self._descriptor, _KEY.pack(key))

    def _batches(self) -> Iterator[tuple[bytes, bytes]]:
        """Read bucket by bucket. From key to key it might never end: where a key is gone, that begins anew."""
        keys = ctypes.create_string_buffer(_KEY.size * _BATCH_ENTRIES)
        values = ctypes.create_string_buffer(self._value_bytes * _BATCH_ENTRIES)
        bucket = ctypes.create_string_buffer(4)
        places = tuple(map(ctypes.addressof, (bucket, keys, values)))
        begin, more = 0, True
        while more:
            batch = _BATCH.pack(begin, *places, _BATCH_ENTRIES, self._descriptor, 0, 0)
            count, more = _read_batch(_MAP_LOOKUP_BATCH, batch)
            yield ctypes.string_at(keys, count * _KEY.size), ctypes.string_at(values, count * self._value_bytes)
            begin = places[0]


def put(descriptor: int, value: bytes, index: int = 0) -> None:
    """Set an element of an array.

    In an array of maps the value is a map's descriptor, and this returns only when no program that found the
    former map there is still at work.
    """
    insert(descriptor, _INDEX.pack(index), value)


def insert(descriptor: int, key: bytes, value: bytes) -> None:
    """Set the element with this key; raises OSError when there is no room for it."""
    wanted, held = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    _bpf(_MAP_UPDATE, _ELEMENT.pack(descriptor, ctypes.addressof(wanted), ctypes.addressof(held), 0))


def remove(descriptor: int, key: bytes) -> bool:
    """Delete the element with this key; False when someone else did first."""
    wanted = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(_MAP_DELETE, _ELEMENT.pack(descriptor, ctypes.addressof(wanted), 0, 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def take_all(descriptor: int, key_bytes: int, value_bytes: int, limit: int) -> tuple[bytes, bytes]:
    """Remove every entry of a hash map, ``limit`` being its size: all keys and all values, one after another.

    Nobody else may be changing the map.
    """
    keys = ctypes.create_string_buffer(key_bytes * limit)
    values = ctypes.create_string_buffer(value_bytes * limit)
    position = ctypes.create_string_buffer(4)
    places = map(ctypes.addressof, (position, keys, values))
    count, _ = _read_batch(_MAP_LOOKUP_AND_DELETE_BATCH, _BATCH.pack(0, *places, limit, descriptor, 0, 0))
    return keys.raw[: count * key_bytes], values.raw[: count * value_bytes]


def _read_batch(command: int, batch: bytes) -> tuple[int, bool]:
    """Return how many entries were read, and whether there may be more."""
    attributes = ctypes.create_string_buffer(batch, _BATCH.size)
    more = True
    try:
        _bpf_in_place(command, attributes)
    except OSError as error:
        if error.errno != errno.ENOENT:  # which says that it was the last batch
            raise
        more = False
    (count,) = struct.unpack_from("=I", attributes, _COUNT_AT)
    return count, more


def load_tracing(instructions: bytes, name: str, kind: Attach, btf_id: int) -> int:
    """Load a program for the raw tracepoint or the function whose type has this number, and return its descriptor.

    Raises OSError with the verifier's words, if it has any.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    words = ctypes.create_string_buffer(_LICENCE)
    title = name.encode()[:_NAME_BYTES]

    def load(log_level: int, log: "ctypes.Array[ctypes.c_char] | None") -> int:
        place = (len(log), ctypes.addressof(log)) if log else (0, 0)
        what = (_TYPE_TRACING, len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(words))
        return _bpf(_PROG_LOAD, _PROG.pack(*what, log_level, *place, title, kind, btf_id))

    try:
        return load(0, None)
    except OSError as error:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        with suppress(OSError):
            os.close(load(1, log))
        said = [line for line in log.value.decode(errors="replace").splitlines() if not line.startswith("processed ")]
        raise OSError(error.errno, ": ".join((str(error.strerror), *said[-1:]))) from error


def attach_tracing(program: int) -> int:
    """Attach a program to what it was loaded for; it stays attached until the descriptor returned is closed."""
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QIIQ", 0, program, 0, 0))


def may_attach(kind: Attach, btf_id: int) -> bool:
    """Try to attach a program that does nothing, for a moment.

    Before Linux 5.11 programs count as memory that the user has locked. The limit is lifted for that, as bcc does for
    what it loads: else all programs of the user together, of whatever process, would decide.

    Raises OSError when descriptors or memory have run out, which says nothing about the kernel.
    """
    _, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for limit in (most, resource.RLIM_INFINITY):  # which takes CAP_SYS_RESOURCE
        with suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    with ExitStack() as stack:
        try:
            program = load_tracing(_NOTHING, "trial", kind, btf_id)
            stack.callback(os.close, program)
            stack.callback(os.close, attach_tracing(program))
        except OSError as error:
            if shortage(error):
                raise
            return False
    return True


def recursion_misses(program: int) -> int:
    """How often the kernel skipped a program because another was running on that CPU (0 before 5.12)."""
    info = ctypes.create_string_buffer(_PROG_INFO_BYTES)
    _bpf(_INFO_BY_FD, _INFO.pack(program, _PROG_INFO_BYTES, ctypes.addressof(info)))
    return int(struct.unpack_from("=Q", info, _RECURSION_MISSES_AT)[0])
