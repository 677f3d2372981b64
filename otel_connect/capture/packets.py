"""Packets to and from name servers, as the probes see them pass in every network namespace of the host.

The probes put them into a perf buffer for each CPU (probes/packets.h). Reading is bounded: what is too much stays
in the buffers, and what finds no room there is counted by the probes.
"""

import os
import struct
import time
from collections.abc import Callable

from otel_connect.capture import bpf
from otel_connect.capture.clock import Clocks
from otel_connect.capture.perf import PerfBuffer, online_cpus
from otel_connect.capture.segments import decode_packet, packet_time
from otel_connect.errors import NotPermittedError, ProbeError, shortage
from otel_connect.model import Segment

_BUFFER_BYTES = 128 << 10  # of each CPU: the kernel lets every user lock four times that for it
_DESCRIPTOR = struct.Struct("=i")


class Packets:
    """The buffers, and the map by which programs find them."""

    def __init__(self, clocks: Clocks, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """Create the map; raises ProbeError."""
        self._clocks = clocks
        self._monotonic_ns = monotonic_ns
        self._buffers: list[PerfBuffer] = []
        self._held: list[bytes] = []
        try:
            self.map = bpf.create_perf_array(os.sysconf("SC_NPROCESSORS_CONF"))
        except OSError as error:
            raise _refusal(error) from error

    def open(self) -> None:
        """Open a buffer for each CPU: from now on packets are taken; raises ProbeError."""
        try:
            for cpu in online_cpus():
                buffer = PerfBuffer(cpu, _BUFFER_BYTES)
                self._buffers.append(buffer)
                bpf.put(self.map, _DESCRIPTOR.pack(buffer.descriptor), cpu)
        except OSError as error:
            raise _refusal(error) from error

    def close(self) -> None:
        """Give everything back; may be called twice."""
        while self._buffers:
            self._buffers.pop().close()
        if self.map >= 0:
            os.close(self.map)
        self.map = -1

    def drain(self, limit: int) -> list[Segment]:
        """Take what has passed, in the order it did, about so many packets at the most.

        What one CPU has put in before a packet of another may be read after it: so what is later than anything that
        is still to be read waits for the next time.
        """
        horizon = self._monotonic_ns()
        share = max(1, limit // max(1, len(self._buffers)))
        records = self._held
        for buffer in self._buffers:
            read = list(buffer.samples(share))
            records += read
            if read and not buffer.empty:
                horizon = min(horizon, packet_time(read[-1]))
        records.sort(key=packet_time)
        ready = [record for record in records if packet_time(record) <= horizon]
        self._held = records[len(ready) :]
        clock = self._clocks.offsets()
        return [segment for record in ready if (segment := decode_packet(record, clock)) is not None]


def _refusal(error: OSError) -> ProbeError:
    remedy, kind = shortage(error), ProbeError
    if isinstance(error, PermissionError):
        kind = NotPermittedError
        remedy = "allow perf_event_open (capabilities, seccomp profile, kernel.perf_event_paranoid)"
    reason = f"no buffers for the packets of name servers ({error.strerror})"
    return kind(f"{reason}; {remedy}{', or ' if remedy else ''}set enrich.names = false")
