"""Carry batches from disk to disk, a few megabytes at a time."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

from otel_connect.export.store import Batch, Disk, Head, Store, StoreError, make_batch
from otel_connect.model import Signal

_CHUNK_BYTES = 4 << 20
_HEADS = 32


def renumber(disk: Disk, next_key: int) -> int:
    """Give what lies on a disk keys from ``next_key`` on; gives the next key after them. Raises StoreError."""
    next_key = max(next_key, disk.next_key)
    end = next_key
    for signal in Signal:
        for head in all_heads(disk, signal):
            if head.key >= end:
                break
            batch = disk.read(head)
            renamed = [] if batch is None else [make_batch(next_key, batch.request, head.created_ns)]
            disk.change([head], renamed)
            next_key += max(head.records, 1)
    return next_key


def copy(old: Disk, new: Disk, skip: Collection[int]) -> list[Head]:
    """Copy all but some keys, as far as the old disk can be read; gives what was copied.

    Raises StoreError when the new one cannot be written; it is then as it was, if it lets us.
    """
    copied: list[Head] = []
    try:
        for chunk in _chunks(old, skip):
            new.change([], chunk)
            copied += [batch.head for batch in chunk]
    except StoreError:
        with suppress(StoreError):
            new.change(copied, [])
        raise
    return copied


def all_heads(store: Store, signal: Signal) -> Iterator[Head]:
    """Find the batches of a signal, oldest first; raises StoreError."""
    after = 0
    while page := store.oldest(signal, after, _HEADS):
        yield from page
        after = page[-1].key


def _chunks(old: Disk, skip: Collection[int]) -> Iterator[Sequence[Batch]]:
    chunk: list[Batch] = []
    size = 0
    with suppress(StoreError):
        for signal in Signal:
            for head in all_heads(old, signal):
                batch = None if head.key in skip else old.read(head)
                if batch is None:
                    continue
                chunk.append(batch)
                size += head.size_bytes
                if size >= _CHUNK_BYTES:
                    yield chunk
                    chunk, size = [], 0
    yield chunk
