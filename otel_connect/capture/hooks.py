"""What the probes are attached to: the sets of hooks, of which the best that a kernel allows is used.

Every set has the state hook, and fills the same record. They differ in how connect() calls are seen, which is where
attempts that fail before their SYN are known from (docs/decisions/0067-sets-of-probes.md).
"""

from enum import StrEnum
from typing import NamedTuple

from otel_connect.capture.bpf import Attach, may_attach
from otel_connect.capture.btf import TypeInformation
from otel_connect.capture.child import Link, Program
from otel_connect.errors import ProbeError


class ProbeSet(StrEnum):
    """How connect() calls are seen."""

    FEXIT = "fexit"
    """At the beginning and end of the kernel's function for it: no other system call is made slower."""
    TYPED = "typed"
    """By the tracepoints of the system call."""
    LITE = "lite"
    """Not at all: attempts without a SYN are not seen. Nor is it seen why packets are dropped."""

    @property
    def calls(self) -> int:
        """Return OTC_CALLS of the probes."""
        return {ProbeSet.LITE: 0, ProbeSet.TYPED: 1, ProbeSet.FEXIT: 2}[self]


class Sight(NamedTuple):
    """What the probes in use see: failures before a SYN, and why packets are dropped."""

    probes: ProbeSet
    rings: bool
    """Whether requests of io_uring are seen by hooks of their own, which FEXIT does without."""
    drops: bool
    """Whether it is seen why this host drops a packet of an attempt."""
    sends: bool = False
    """Whether sendto() with MSG_FASTOPEN is seen."""

    @property
    def unseen(self) -> str:
        """Say whose failures are not seen."""
        if self.probes is ProbeSet.LITE:
            return "none, because of capture.probes"
        if self.probes is ProbeSet.FEXIT:
            others = "" if self.sends else "sendto() with MSG_FASTOPEN and of "
            return f"not those of {others}addresses that the kernel cannot read"
        if self.rings:
            return "not those of 32-bit programs, of sendto() with MSG_FASTOPEN, and of files that only a ring has"
        return "not those of io_uring, of 32-bit programs and of sendto() with MSG_FASTOPEN"

    @property
    def without_reasons(self) -> str:
        """Say why there are no reasons for drops; empty when there are."""
        if self.drops:
            return ""
        if self.probes is ProbeSet.LITE:
            return "none, because of capture.probes"
        return "this kernel gives none; Linux 5.17 and later do"


STATE_PROGRAMS = ("state_change", "state_change_again")
_RESET_PROGRAM, _DROP_PROGRAM = "receive_reset", "packet_dropped"
_RAW, _ENTRY, _EXIT = Attach.RAW_TRACEPOINT, Attach.FENTRY, Attach.FEXIT
_CONNECT = "__sys_connect_file"
_SEND = "tcp_sendmsg_fastopen"
_STATE = (
    *((_RAW, "inet_sock_set_state", name) for name in STATE_PROGRAMS),
    (_RAW, "tcp_receive_reset", _RESET_PROGRAM),
)
_CALLS = ((_ENTRY, _CONNECT, "connect_enters"), (_EXIT, _CONNECT, "connect_returns"))
_SENDS = ((_ENTRY, _SEND, "send_enters"), (_EXIT, _SEND, "send_returns"))
_RINGS = ((_RAW, "io_uring_submit_req", "ring_submits"), (_RAW, "io_uring_complete", "ring_completes"))
_DROPS = ((_RAW, "kfree_skb", _DROP_PROGRAM),)
_NAMES = ((_RAW, "net_dev_queue", "packet_sent"), (_RAW, "netif_receive_skb", "packet_received"))

BESIDES = frozenset({_RESET_PROGRAM, _DROP_PROGRAM, *(name for _, _, name in _NAMES)})
"""Programs that hide no attempt when they are skipped."""

_PACKETS = 0x6F74632D6C696E01  # LINK_PACKETS of probes/kernel.h
_MAP = 1  # BPF_PSEUDO_MAP_FD of linux/bpf.h


def find_sight(types: TypeInformation, wanted: str) -> Sight:
    """Choose the set of probes: the one that is wanted, or for ``auto`` the best that the kernel allows."""
    probes = _best(types) if wanted == "auto" else ProbeSet(wanted)
    return Sight(
        probes,
        rings=probes is ProbeSet.TYPED and _sees_rings(types),
        drops=probes is not ProbeSet.LITE and _sees_drops(types),
        sends=probes is ProbeSet.FEXIT and _function(types, _SEND, 5) is not None,
    )


def _best(types: TypeInformation) -> ProbeSet:
    """Try it: no version says what the policy of a host refuses, nor what the kernel of a processor can attach."""
    function = _function(types, _CONNECT, 4)
    return ProbeSet.FEXIT if function is not None and may_attach(Attach.FEXIT, function) else ProbeSet.TYPED


def _function(types: TypeInformation, name: str, parameters: int) -> int | None:
    """Return the number of a function; ``None`` if it is inlined, or its parameters are not those that are expected."""
    function = types.function(name)
    return function if function is not None and types.parameters(function) == parameters else None


def find_programs(types: TypeInformation, sight: Sight, *, names: bool) -> list[Program]:
    """List the programs of a set, in the order in which they are attached.

    Raises ProbeError naming the first hook that this kernel does not have.
    """
    calls = _CALLS if sight.probes is ProbeSet.FEXIT else ()
    others = (*(_SENDS if sight.sends else ()), *(_RINGS if sight.rings else ()))
    wanted = (*_STATE, *calls, *others, *(_DROPS if sight.drops else ()), *(_NAMES if names else ()))
    return [Program(kind, hook, name, _number(types, kind, hook)) for kind, hook, name in wanted]


def _sees_rings(types: TypeInformation) -> bool:
    """Whether the tracepoints of io_uring say what the probes of the set TYPED need: since Linux 6.10."""
    completes = types.typedef("btf_trace_io_uring_complete")
    # its context, the request and the completion; and what every tracepoint has first
    return (
        completes is not None
        and types.parameters(completes) == 4
        and types.typedef("btf_trace_io_uring_submit_req") is not None
    )


def _sees_drops(types: TypeInformation) -> bool:
    """Whether the tracepoint of dropped packets says why: since Linux 5.17."""
    drops = types.typedef("btf_trace_kfree_skb")
    # its context, the packet, the place and the reason; what later kernels add comes after these
    return drops is not None and types.parameters(drops) >= 4


def packets_link(descriptor: int) -> Link:
    """Link the programs with the map of the perf buffers."""
    return Link(_PACKETS, _MAP, descriptor)


def _number(types: TypeInformation, kind: Attach, hook: str) -> int:
    number = types.typedef(f"btf_trace_{hook}") if kind is _RAW else types.function(hook)
    if number is None:
        what = "raw tracepoint" if kind is _RAW else "function"
        raise ProbeError(f"this kernel has no {what} {hook}; update the agent")
    return number
