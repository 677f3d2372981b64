"""The raw tracepoints that typed programs are attached to, and what else of the kernel the programs are linked with."""

from collections.abc import Sequence

from otel_connect.capture.btf import TypeInformation
from otel_connect.capture.child import Link, Typed
from otel_connect.errors import ProbeError

STATE_PROGRAMS = ("state_change", "state_change_again")
RESET_PROGRAM = "receive_reset"
STATE = (*(("inet_sock_set_state", name) for name in STATE_PROGRAMS), ("tcp_receive_reset", RESET_PROGRAM))
"""Raw tracepoints and their programs, attached in this order; why the state hook has two: probes/connect.c."""
NAMES = (("net_dev_queue", "packet_sent"), ("netif_receive_skb", "packet_received"))

_PACKETS = 0x6F74632D6C696E01  # LINK_PACKETS of probes/kernel.h
_MAP = 1  # BPF_PSEUDO_MAP_FD of linux/bpf.h


def packets_link(descriptor: int) -> Link:
    """Link the programs with the map of the perf buffers."""
    return Link(_PACKETS, _MAP, descriptor)


def find_hooks(types: TypeInformation, hooks: Sequence[tuple[str, str]]) -> list[Typed]:
    """Look up the types of raw tracepoints; raises ProbeError naming the first that this kernel does not have."""
    found = []
    for hook, program in hooks:
        number = types.typedef(f"btf_trace_{hook}")
        if number is None:
            raise ProbeError(f"this kernel has no raw tracepoint {hook}; update the agent")
        found.append(Typed(hook, program, number))
    return found
