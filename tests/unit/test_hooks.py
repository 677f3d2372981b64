"""Which hooks there are for what a kernel has, by type tables made by hand."""

from collections.abc import Mapping

import pytest

from otel_connect.capture.btf import TypeInformation
from otel_connect.capture.hooks import ProbeSet, Sight, find_programs, find_sight
from tests.unit.test_btf import FUNC, FUNC_PROTO, PTR, TYPEDEF, Table


def kernel(parameters: Mapping[str, int], functions: Mapping[str, int]) -> TypeInformation:
    """Describe a kernel that has these tracepoints, each with so many parameters beside its context, and functions."""
    table = Table()
    for name, count in functions.items():
        table.add(FUNC, name, size=table.add(FUNC_PROTO, members=[("", 0, 0)] * count))
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
    types = kernel(parameters, {})
    sight = find_sight(types, probes)
    assert sight == Sight(ProbeSet(probes), rings=False, drops=seen)
    hooks = [program.hook for program in find_programs(types, sight, names=False)]
    assert ("kfree_skb" in hooks) is seen


@pytest.mark.parametrize(
    ("probes", "functions", "seen"),
    [
        ("fexit", {}, False),  # the compiler has inlined it
        ("fexit", {"tcp_sendmsg_fastopen": 4}, False),
        ("fexit", {"tcp_sendmsg_fastopen": 5}, True),
        ("typed", {"tcp_sendmsg_fastopen": 5}, False),
    ],
)
def test_a_send_that_connects_is_seen_in_the_function_that_it_is_known_to_call(
    probes: str, functions: dict[str, int], seen: bool
) -> None:
    types = kernel({}, {"__sys_connect_file": 4, **functions})
    sight = find_sight(types, probes)
    assert sight == Sight(ProbeSet(probes), rings=False, drops=False, sends=seen)
    names = [program.name for program in find_programs(types, sight, names=False)]
    assert ({"send_enters", "send_returns"} <= set(names)) is seen
    assert ("MSG_FASTOPEN" in sight.unseen) is not seen


def test_fexit_is_not_tried_where_connect_is_not_the_function_that_is_known() -> None:
    assert find_sight(kernel({}, {"__sys_connect_file": 3}), "auto").probes is ProbeSet.TYPED
