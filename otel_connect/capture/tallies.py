"""Bytes of ``struct otc_tally_key`` and ``struct otc_tally`` → tallies; see ``layout`` for the rest of the header."""

import struct
from socket import AF_INET, AF_INET6, ntohs
from typing import Any

from otel_connect.capture.layout import EVENT, ClockOffsets, address_text, decode_event, name_text, shown_family
from otel_connect.model import Detail, Ending, EventFlag, Hook, Tally, Withheld

# (name in the header, struct format); "x" bytes are padding.
TALLY_KEY_FIELDS = (
    ("process_start_ns", "Q"),
    ("cgroup_id", "Q"),
    ("pid", "I"),
    ("uid", "I"),
    ("netns", "I"),
    ("sk_err", "i"),
    ("sk_err_soft", "i"),
    ("returned", "i"),
    ("family", "H"),
    ("address_family", "H"),
    ("port", "H"),
    ("ending", "B"),
    ("hooks", "B"),
    ("flags", "B"),
    ("socket_state", "B"),
    ("shutdown", "B"),
    ("withheld", "B"),
    ("detail", "B"),
    ("ended", "B"),
    ("padding", "2x"),
    ("address", "16s"),
    ("comm", "16s"),
)
TALLY_FIELDS = (("attempts", "Q"), ("duration_ns", "Q"), ("first_ns", "Q"), ("last_ns", "Q"))

TALLY_KEY = struct.Struct("=" + "".join(code for _, code in TALLY_KEY_FIELDS))
TALLY = struct.Struct("=" + "".join(code for _, code in TALLY_FIELDS))

_FAMILIES = (int(AF_INET), int(AF_INET6))
_SYN_SENT, _REQUESTED = int(Hook.SYN_SENT), int(EventFlag.REQUESTED)
_NOTHING = decode_event(bytes(EVENT.size), ClockOffsets(0, 0))
_WITHHELD, _DETAILS, _ENDINGS = tuple(Withheld), tuple(Detail), tuple(Ending)


def decode_tallies(keys: bytes, values: bytes, clock: ClockOffsets) -> list[Tally]:
    """Decode keys and values that stand one after another, as many of these as of those.

    Raises struct.error when one is not whole, LookupError for a number without a meaning.
    """
    pairs = zip(TALLY_KEY.iter_unpack(keys), TALLY.iter_unpack(values), strict=True)
    return [_tally(key, value, clock) for key, value in pairs]


def _tally(key: tuple[Any, ...], value: tuple[int, ...], clock: ClockOffsets) -> Tally:
    (
        process_start,
        cgroup_id,
        pid,
        uid,
        netns,
        sk_err,
        sk_err_soft,
        returned,
        family,
        address_family,
        port,
        ending,
        hooks,
        flags,
        socket_state,
        shutdown,
        withheld,
        detail,
        ended,
        address_bytes,
        comm,
    ) = key
    attempts, duration_ns, first, last = value
    started = hooks & _SYN_SENT
    has_address = detail == Detail.WHOLE and (started or flags & _REQUESTED)
    address = address_text(address_family, address_bytes) if has_address else None
    target = (address, ntohs(port)) if address is not None else (None, None)
    peer_address, peer_port = target if started else (None, None)
    requested_address, requested_port = (None, None) if started else target
    event = _NOTHING._replace(
        start_unix_ns=first + clock.monotonic_ns,
        ending=_ENDINGS[ending],
        hooks=hooks,
        flags=flags,
        pid=pid,
        uid=uid,
        process_start_boot_ns=process_start,
        process_start_unix_ns=process_start + clock.boot_ns,
        cgroup_id=cgroup_id,
        netns=netns,
        comm=name_text(comm),
        family=shown_family(address, address_family if address_family in _FAMILIES else family),
        peer_address=peer_address,
        peer_port=peer_port,
        requested_address=requested_address,
        requested_port=requested_port,
        sk_err=sk_err,
        sk_err_soft=sk_err_soft,
        returned=returned,
        socket_state=socket_state,
        shutdown=shutdown,
    )
    return Tally(
        withheld=_WITHHELD[withheld],
        detail=_DETAILS[detail],
        event=event,
        attempts=attempts,
        duration_ns=duration_ns if ended else None,
        first_unix_ns=first + clock.monotonic_ns,
        last_unix_ns=last + clock.monotonic_ns,
    )
