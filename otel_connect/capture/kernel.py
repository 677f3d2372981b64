"""The attached probes, seen from the agent: start the loader, map what it sends, read it.

Nothing here needs a privilege once the probes are attached; they live as long as their descriptors.
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from types import TracebackType
from typing import NamedTuple, Self

from otel_connect.capture import bpf, preflight
from otel_connect.capture.btf import TypeInformation
from otel_connect.capture.child import Loaded, Program
from otel_connect.capture.clock import Clocks
from otel_connect.capture.filters import MAX_FILTERS, FilterMaps
from otel_connect.capture.hooks import (
    BESIDES,
    STATE_PROGRAMS,
    find_programs,
    find_sight,
    packets_link,
)
from otel_connect.capture.layout import (
    ATTEMPT,
    COUNTERS,
    TEXT_SIZES,
    decode_counters,
    decode_event,
    decode_text,
    ring_records,
)
from otel_connect.capture.limits import bucket_numbers
from otel_connect.capture.loader import Wanted, close_all, load_probes
from otel_connect.capture.offsets import drop_reasons, find_offsets
from otel_connect.capture.packets import Packets
from otel_connect.capture.tallies import TALLY, TALLY_KEY, decode_tallies
from otel_connect.config import CaptureConfig
from otel_connect.errors import ProbeError, shortage
from otel_connect.model import (
    ConnectEvent,
    Ending,
    EventFlag,
    KernelCounters,
    KernelFilters,
    Tally,
    Told,
)

_PAGE = mmap.PAGESIZE
_DESCRIPTOR = struct.Struct("=i")
_MAX_TALLIES = 8192  # in a turn; an attempt more or less alike costs no more memory than that, 3 MB in all
_DRAIN_RECORDS = 2048  # at one time: after a burst, what the agent holds is bounded, and the ring is not freed at once


class Drained(NamedTuple):
    """What one reading of the ring gave."""

    events: list[ConnectEvent]
    undecodable: int
    """Attempts that could not be decoded."""
    more: bool
    """The ring may hold more."""
    told: Sequence[Told] = ()
    """About the processes of these attempts, and of later ones."""


class Fill(NamedTuple):
    """How full the kernel side's stores are."""

    in_progress_limit: int
    ring_bytes: int
    ring_limit_bytes: int


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what a system call failed for into a line with its remedy."""
    try:
        yield
    except OSError as error:
        remedy = shortage(error) or "please report this"
        raise ProbeError(f"the probes cannot be used ({error.strerror}); {remedy}") from error


class KernelCapture:
    """The probes at work. Use as a context manager; leaving it detaches them."""

    def __init__(
        self,
        config: CaptureConfig,
        own_pid: int,
        clocks: Clocks | None = None,
        load: Callable[[Wanted], Loaded] = load_probes,
        *,
        names: bool = False,
        command_args: bool = False,
    ) -> None:
        """Load and attach the probes; raises ProbeError with cause and remedy.

        Attempts of the process ``own_pid`` are left out. With ``names`` the packets of name servers are taken,
        too. With ``command_args`` all arguments of processes are read, else only the first.
        """
        preflight.check(calls=config.probes != "lite")
        types = TypeInformation(preflight.read_btf())
        with _explained():
            self.sight = find_sight(types, config.probes)
        self._drop_reasons = drop_reasons(types)
        numbers = find_offsets(types)
        cpus = os.sysconf("SC_NPROCESSORS_CONF")
        ring_bytes = max(config.ring_bytes, _PAGE)
        numbers |= {
            "OTC_CPUS": cpus,
            "OTC_RING_PAGES": ring_bytes // _PAGE,
            "OTC_MAX_IN_PROGRESS": config.max_in_progress,
            "OTC_OWN_PID": own_pid,
            "OTC_MAX_TALLIES": _MAX_TALLIES,
            "OTC_MAX_FILTERS": MAX_FILTERS,
            "OTC_COMMAND_ARGS": int(command_args),
            "OTC_CALLS": self.sight.probes.calls,
            "OTC_RINGS": int(self.sight.rings),
            **bucket_numbers(config),
        }
        self._clocks = clocks or Clocks()
        self._in_progress_limit = config.max_in_progress
        self._withheld_before = 0
        self._stale_ns = config.stale_after_s * 1_000_000_000
        self.packets: Packets | None = None
        with ExitStack() as opened, _explained():
            self._open(opened, load, find_programs(types, self.sight, names=names), numbers, names=names)
            self._opened = opened.pop_all()

    def _open(
        self,
        opened: ExitStack,
        load: Callable[[Wanted], Loaded],
        programs: Sequence[Program],
        numbers: Mapping[str, int],
        *,
        names: bool,
    ) -> None:
        """Load and map everything, and have ``opened`` give it back."""
        maps: Sequence[int] = ()
        if names:
            self.packets = Packets(self._clocks)
            opened.callback(self.packets.close)
            maps = [self.packets.map]
        loaded = load(Wanted(numbers, programs, [packets_link(number) for number in maps], maps))
        self._attached = list(loaded.hooks.values())
        self._programs = dict(loaded.programs)
        for descriptors in (list(loaded.maps.values()), list(loaded.programs.values()), self._attached):
            opened.callback(close_all, descriptors)
        if self.packets is not None:
            self.packets.open()
        self.hooks: tuple[str, ...] = tuple(dict.fromkeys(name.partition("/")[0] for name in loaded.hooks))
        self._in_progress = bpf.HashMap(loaded.maps["in_progress"], ATTEMPT.size)
        self._counter_bytes = numbers["OTC_CPUS"] * COUNTERS.size
        self._counters = opened.enter_context(
            mmap.mmap(loaded.maps["counters"], _pages(self._counter_bytes), mmap.MAP_SHARED, mmap.PROT_READ)
        )
        self._ring = opened.enter_context(closing(_Ring(loaded.maps["events"], numbers["OTC_RING_PAGES"] * _PAGE)))
        self._filters = FilterMaps(loaded.maps)
        self._turns = _Turns(loaded.maps)

    @property
    def probes(self) -> str:
        """Name the set of probes in use."""
        return self.sight.probes

    def __enter__(self) -> Self:
        """Nothing to do: the probes are attached already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach the probes."""
        self.close()

    def drain(self) -> Drained:
        """Take finished attempts from the ring, a bounded number of them."""
        events = []
        told: list[Told] = []
        undecodable = 0
        clock = self._clocks.offsets()
        records = self._ring.take(_DRAIN_RECORDS)
        for record in records:
            if len(record) in TEXT_SIZES:
                told += decode_text(record)
                continue
            try:
                events.append(decode_event(record, clock, reasons=self._drop_reasons))
            except (struct.error, LookupError):
                undecodable += 1
        return Drained(events, undecodable, len(records) == _DRAIN_RECORDS, told)

    def counters(self) -> KernelCounters:
        """Read what the probes have counted, summed over the CPUs."""
        return decode_counters(self._counters[: self._counter_bytes])

    def take_tallies(self) -> list[Tally]:
        """Take the attempts that got no record since the last time; waits some milliseconds if there are any.

        After ``detach`` it waits for the last programs in any case: then nothing changes any more.
        """
        counters = self.counters()
        withheld = counters.throttled + counters.ring_full + counters.filtered
        if withheld == self._withheld_before and self._attached:
            return []
        self._withheld_before = withheld
        return decode_tallies(*self._turns.take(), self._clocks.offsets())

    def filter(self, filters: KernelFilters) -> None:
        """Have the probes leave out what these hold of from now on."""
        self._filters.apply(filters)

    def in_progress(self) -> int:
        """Count the attempts that have no end yet."""
        return self._in_progress.count()

    def fill(self) -> Fill:
        """Say how full the ring is, and how much there is room for."""
        return Fill(self._in_progress_limit, self._ring.waiting, self._ring.size)

    def missed(self) -> int:
        """Count the runs of the probes that the kernel skipped, at the most.

        Of the two programs that watch for ends one may be skipped: the other does its work. Those that note resets
        and drops, and take packets, hide no attempt when they are skipped.
        """
        watching = self._programs.keys() - BESIDES
        misses = {name: bpf.recursion_misses(self._programs[name]) for name in watching}
        ends = [misses.pop(name) for name in STATE_PROGRAMS]
        return min(ends) + sum(misses.values())

    def take_stale(self, now_monotonic_ns: int) -> list[ConnectEvent]:
        """Remove the attempts whose end must have been missed, and return them as EXPIRED."""
        return self._take(Ending.EXPIRED, began_before=now_monotonic_ns - self._stale_ns)

    def take_in_progress(self) -> list[ConnectEvent]:
        """Remove every attempt that has no end yet, and return them as PENDING."""
        return self._take(Ending.PENDING, began_before=None)

    def detach(self) -> None:
        """Stop capturing; what was captured can still be read."""
        self.hooks = ()
        close_all(self._attached)

    def close(self) -> None:
        """Detach and give everything back; may be called twice."""
        self.detach()
        self._opened.close()

    def _take(self, ending: Ending, began_before: int | None) -> list[ConnectEvent]:
        taken = []
        clock = self._clocks.offsets()
        for key, value in self._in_progress.items():
            (record,) = ATTEMPT.unpack(value)
            event = decode_event(record, clock, ending, self._drop_reasons)
            began = event.start_unix_ns - clock.monotonic_ns
            if began_before is not None and (began >= began_before or event.flags & EventFlag.DEFERRED):
                continue  # of a deferred one nothing says whether its SYN has left: it may wait for its program
            if event.flags & EventFlag.CLOSED_IN_CALL:  # over, but its connect() was not seen to return
                event = event._replace(ending=Ending.EXPIRED)
            if self._in_progress.delete(key):
                taken.append(event)
        return taken


class _Turns:
    """The two maps of tallies: one is filled by the probes while the other is read and emptied."""

    def __init__(self, maps: Mapping[str, int]) -> None:
        self._filling, self._empty = maps["tally_even"], maps["tally_odd"]
        self._tallies, self._begun = maps["tallies"], maps["tallies_begun"]
        bpf.put(self._tallies, _DESCRIPTOR.pack(self._filling))
        bpf.put(maps["ring"], _DESCRIPTOR.pack(maps["events"]))  # from now on there are limits

    def take(self) -> tuple[bytes, bytes]:
        """End the turn, and return its keys and its tallies."""
        bpf.put(self._begun, bytes(8))  # a moment too early rather than too late: then some are coarser
        self._filling, self._empty = self._empty, self._filling
        bpf.put(self._tallies, _DESCRIPTOR.pack(self._filling))
        return bpf.take_all(self._empty, TALLY_KEY.size, TALLY.size, _MAX_TALLIES)


class _Ring:
    """The BPF ring buffer, mapped: a consumer page to write, a producer page and the data twice to read."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self._mask = size - 1
        self._consumer_map = mmap.mmap(descriptor, _PAGE)
        self._producer_map = mmap.mmap(descriptor, _PAGE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        # One aligned 8-byte store: struct.pack_into() would store byte by byte, and the kernel read a torn
        # position.
        self._consumer = memoryview(self._consumer_map)[:8].cast("Q")
        self._producer = memoryview(self._producer_map)[:8].cast("Q")
        self._data = memoryview(self._producer_map)[_PAGE:]

    @property
    def waiting(self) -> int:
        """Bytes that are not read yet."""
        return self._producer[0] - self._consumer[0]

    def take(self, limit: int) -> list[bytes]:
        taken = ring_records(self._data, self._mask, self._consumer[0], self._producer[0], limit)
        self._consumer[0] = taken.position
        return taken.records

    def close(self) -> None:
        for view in (self._consumer, self._producer, self._data):
            view.release()
        self._consumer_map.close()
        self._producer_map.close()


def _pages(size: int) -> int:
    return (size + _PAGE - 1) // _PAGE * _PAGE
