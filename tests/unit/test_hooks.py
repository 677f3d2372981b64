"""Which hooks there are for what a kernel has, by type tables made by hand."""

import pytest

from otel_connect.capture.btf import TypeInformation
from otel_connect.capture.hooks import ProbeSet, Sight, find_programs, find_sight
from tests.unit.test_btf import FUNC_PROTO, PTR, TYPEDEF, Table


def kernel(**parameters: int) -> TypeInformation:
    """Describe a kernel that has these tracepoints, each with so many parameters beside its context."""
    table = Table()
    for hook, count in {"inet_sock_set_state": 3, "tcp_receive_reset": 1, **parameters}.items():
        function = table.add(FUNC_PROTO, members=[("", 0, 0)] * (count + 1))
        table.add(TYPEDEF, f"btf_trace_{hook}", size=table.add(PTR, size=function))
    return TypeInformation(table.blob())


@pytest.mark.parametrize(
    ("probes", "parameters", "seen"),
    [
        ("typed", {}, False),
        ("typed", {"kfree_skb": 2}, False),  # before Linux 5.17: the packet and the place
        ("typed", {"kfree_skb": 3}, True),
        ("typed", {"kfree_skb": 4}, True),  # since Linux 6.11: the socket that it was received for
        ("lite", {"kfree_skb": 4}, False),
    ],
)
def test_drops_are_seen_where_the_tracepoint_says_why(probes: str, parameters: dict[str, int], seen: bool) -> None:
    types = kernel(**parameters)
    sight = find_sight(types, probes)
    assert sight == Sight(ProbeSet(probes), rings=False, drops=seen)
    hooks = [program.hook for program in find_programs(types, sight, names=False)]
    assert ("kfree_skb" in hooks) is seen
