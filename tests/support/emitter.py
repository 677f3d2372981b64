"""A program that puts bytes of one's choice into a perf buffer of the CPU that it is run on."""

import ctypes
import os
import struct
from types import TracebackType
from typing import Self

from otel_connect.capture import bpf

_PROG_LOAD, _PROG_TEST_RUN = 5, 10
_TYPE_SCHED_CLS = 3
_LEAST = 14  # bytes of a packet that a program is run on: an Ethernet header


def _instructions(buffers: int) -> bytes:
    """Write out ``bpf_perf_event_output(skb, buffers, skb->len << 32 | BPF_F_CURRENT_CPU, stack, 0)``."""
    return b"".join(
        struct.pack("=BBhi", *one)
        for one in (
            (0x61, 0x13, 0, 0),  # r3 = *(u32 *)(r1 + 0)
            (0x67, 0x03, 0, 32),  # r3 <<= 32
            (0x18, 0x04, 0, -1),  # r4 = 0xffffffff
            (0x00, 0x00, 0, 0),
            (0x4F, 0x43, 0, 0),  # r3 |= r4
            (0x7A, 0x0A, -8, 0),  # *(u64 *)(r10 - 8) = 0
            (0xBF, 0xA4, 0, 0),  # r4 = r10
            (0x07, 0x04, 0, -8),  # r4 += -8
            (0xB7, 0x05, 0, 0),  # r5 = 0
            (0x18, 0x12, 0, buffers),  # r2 = the map
            (0x00, 0x00, 0, 0),
            (0x85, 0x00, 0, 25),  # call bpf_perf_event_output
            (0x95, 0x00, 0, 0),  # exit
        )
    )


class Emitter:
    """The program, for a map of perf buffers; use as a context manager."""

    def __init__(self, buffers: int) -> None:
        code, licence = ctypes.create_string_buffer(_instructions(buffers)), ctypes.create_string_buffer(b"GPL")
        addresses = ctypes.addressof(code), ctypes.addressof(licence)
        self._program = bpf._bpf(_PROG_LOAD, struct.pack("=IIQQ", _TYPE_SCHED_CLS, len(code) // 8, *addresses))

    def __enter__(self) -> Self:
        """Nothing to do: the program is loaded."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the program back."""
        os.close(self._program)

    def put(self, record: bytes, cpu: int) -> bool:
        """Put a record into the buffer of a CPU; returns whether there was room."""
        assert len(record) >= _LEAST
        packet = ctypes.create_string_buffer(record, len(record))
        run = ctypes.create_string_buffer(
            struct.pack("=IIIIQQII", self._program, 0, len(record), 0, *_of(packet), 1, 0)
        )
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {cpu})
        try:
            bpf._bpf_in_place(_PROG_TEST_RUN, run)
        finally:
            os.sched_setaffinity(0, allowed)
        (returned,) = struct.unpack_from("=i", run, 4)
        return bool(returned == 0)


def _of(packet: ctypes.Array[ctypes.c_char]) -> tuple[int, int]:
    return ctypes.addressof(packet), 0
