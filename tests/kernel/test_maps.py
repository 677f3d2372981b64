"""Maps of the kernel, read while others change them."""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from otel_connect.capture import bpf

HASH, MAP_CREATE, MAP_UPDATE = 1, 0, 2


@contextmanager
def hash_map(entries: int) -> Iterator[int]:
    descriptor = bpf._bpf(MAP_CREATE, struct.pack("=IIIII", HASH, 8, 8, entries, 0))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def insert(descriptor: int, number: int) -> None:
    key, value = (ctypes.create_string_buffer(struct.pack("=Q", each), 8) for each in (number, number * 3))
    element = struct.pack("=IxxxxQQQ", descriptor, ctypes.addressof(key), ctypes.addressof(value), 0)
    bpf._bpf(MAP_UPDATE, element)


def test_every_entry_is_found_once() -> None:
    with hash_map(5000) as descriptor:
        for number in range(3000):
            insert(descriptor, number)
        entries = bpf.HashMap(descriptor, 8)
        assert entries.count() == 3000
        found = list(entries.items())
        assert len(found) == 3000
        assert dict(found) == {number: struct.pack("=Q", number * 3) for number in range(3000)}
        assert entries.delete(7)
        assert not entries.delete(7)
        assert entries.count() == 2999


def test_an_empty_map_has_no_entries() -> None:
    with hash_map(8) as descriptor:
        assert (bpf.HashMap(descriptor, 8).count(), list(bpf.HashMap(descriptor, 8).items())) == (0, [])


def test_a_walk_ends_though_all_entries_come_and_go() -> None:
    with hash_map(64) as descriptor:
        entries = bpf.HashMap(descriptor, 8)
        present = range(16)
        for number in present:
            insert(descriptor, number)
        for steps, _ in enumerate(entries.items(), 1):
            assert steps <= 64
            following = range(present.stop, present.stop + 16)
            for gone, new in zip(present, following, strict=True):
                entries.delete(gone)
                insert(descriptor, new)
            present = following
