"""Give up, once the probes are attached, every privilege that nothing needs any more.

The kernel keeps capabilities for each thread, and a new thread has those of the one that starts it: so this
runs before there is a second one. What stays, and why, is in docs/decisions/0018-privileges.md.
"""

import ctypes
import os
import signal
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from otel_connect.errors import NotPermittedError

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_BPF": 39}
"""Those that may have to stay, by their numbers in linux/capability.h."""

# Asking the connection tracking takes this one, each time.
_CONNTRACK = frozenset({"CAP_NET_ADMIN"})
# Until Linux 5.19, and where unprivileged bpf() is off, even reading a map by its descriptor takes one of these.
_MAPS: tuple[frozenset[str], ...] = (frozenset(), frozenset({"CAP_BPF"}), frozenset({"CAP_SYS_ADMIN"}))

_VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two words of 32 bits each
_HEADER = struct.Struct("=Ii")
_SETS = struct.Struct("=6I")  # effective, permitted, inheritable, first of the low words, then of the high ones

_PR_SET_PDEATHSIG, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 23, 24, 38, 47
_CAP_AMBIENT_CLEAR_ALL = 4

_libc = ctypes.CDLL(None, use_errno=True)


def drop_privileges(still_works: Callable[[], object], *, asks_conntrack: bool = False) -> frozenset[str]:
    """Drop all capabilities of this thread that are not needed; return the names of those that stay.

    ``still_works`` reads what the capture reads, and raises PermissionError where that is not permitted: it is
    tried with as few capabilities as possible, before these are given up for good. ``asks_conntrack`` keeps what that
    takes. Afterwards no program that is executed can have more privileges than this process (no_new_privs). Raises
    NotPermittedError when not even all capabilities suffice.
    """
    permitted = _permitted()
    for needed in _MAPS:
        wanted = needed | (_CONNTRACK if asks_conntrack else frozenset())
        keep = {name for name in wanted if permitted >> CAPABILITIES[name] & 1}
        mask = _mask(keep)
        _set(effective=mask, permitted=permitted)
        try:
            still_works()
        except PermissionError:
            continue
        _give_up(mask)
        return frozenset(keep)
    raise NotPermittedError("the kernel does not let the agent read its own maps; run as root, or grant CAP_BPF")


def restrict(names: Iterable[str]) -> None:
    """Drop all capabilities of this thread but these, of those that it has."""
    permitted = _permitted()
    _give_up(_mask(names) & permitted)


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Have for a while no more power over the files of others than after ``drop_privileges``, in this thread."""
    effective, permitted, inheritable = _sets()
    _set(effective=0, permitted=permitted, inheritable=inheritable)
    try:
        yield
    finally:
        _set(effective=effective, permitted=permitted, inheritable=inheritable)


def _give_up(mask: int) -> None:
    """Keep only the mask, in every set; the bounding set first, as long as there is a right to change it."""
    _set(effective=_permitted(), permitted=_permitted())
    for number in range(_last_capability() + 1):
        if not mask >> number & 1 and _prctl(_PR_CAPBSET_READ, number) == 1:
            try:
                _prctl(_PR_CAPBSET_DROP, number)
            except PermissionError:  # without CAP_SETPCAP the set stays: no_new_privs makes it harmless
                break
    _prctl(_PR_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    _set(effective=mask, permitted=mask)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _mask(names: Iterable[str]) -> int:
    return sum(1 << CAPABILITIES[name] for name in names)


def _permitted() -> int:
    return _sets()[1]


def _sets() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable capabilities of this thread."""
    sets = ctypes.create_string_buffer(_SETS.size)
    _check(_libc.capget(_HEADER.pack(_VERSION_3, 0), sets))
    low_effective, low_permitted, low_inheritable, *high = _SETS.unpack(sets.raw)
    return low_effective | high[0] << 32, low_permitted | high[1] << 32, low_inheritable | high[2] << 32


def _set(*, effective: int, permitted: int, inheritable: int = 0) -> None:
    """Set the capabilities of this thread; by default nothing is inherited by what it executes."""
    sets = (effective, permitted, inheritable)
    packed = _SETS.pack(*(one & 0xFFFFFFFF for one in sets), *(one >> 32 for one in sets))
    _check(_libc.capset(_HEADER.pack(_VERSION_3, 0), packed))


def _prctl(option: int, argument: int) -> int:
    return _check(_libc.prctl(option, ctypes.c_ulong(argument), *[ctypes.c_ulong(0)] * 3))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _last_capability() -> int:
    try:
        return int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 40
