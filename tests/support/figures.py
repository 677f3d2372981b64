"""What an agent could say of itself: every figure with a value of its own."""

from otel_connect.figures import Account, AgentState, Delivery, Distribution, Figures, NamesState, Outlet, Spool
from otel_connect.model import Balance, Signal, ThrottleEvent, Withheld

BALANCE = Balance(seen=10, shown=4, in_progress=5, in_ring=0, lost={"kernel_ring_full": 1}, probe_missed=2)
STATE = AgentState(
    balance=BALANCE,
    probes="typed",
    hooks=("raw_tracepoint:inet_sock_set_state",),
    in_progress_limit=64,
    ring_bytes=176,
    ring_limit_bytes=4096,
    unnamed=6,
    silent=17,
    unread=18,
    at_unix_ns=1_700_000_000_500_000_000,
    throttles=(ThrottleEvent(True, Withheld.PROCESS_RATE, 4242, 7, "wg\x1bet", 900, 1_700_000_000_000_000_000),),
    names=NamesState(learned=11, unanswered=12, ignored={"failed": 13}, lost=14),
)
OUTLET = Outlet(
    accounts={
        Signal.LOGS: Account(10, 2, 6, 5, {"queue_full": 1}),
        Signal.METRICS: Account(30, 0, 20, 3, {"expired": 7}),
        Signal.TRACES: Account(10, 0, 7, 2, {"sampled": 1}),
    },
    delivery={Signal.LOGS: Delivery("delivering", "", 3.0), Signal.TRACES: Delivery("retrying", "refused", 1.5)},
    spool=Spool(bytes=1000, limit_bytes=5000, oldest_s=2.5, degraded=""),
    delays={Signal.LOGS: Distribution((0.1, 1.0), (3, 2, 1), 4.5)},
    events={"otel_connect.agent.started": 1},
    overflowed=8,
)
FIGURES = Figures(STATE, OUTLET)


def make_figures(**changes: object) -> Figures:
    """Build these figures with the changes; a change may name a field of the state or of the outlet."""
    state = {name: changes[name] for name in AgentState._fields if name in changes}
    outlet = {name: changes[name] for name in Outlet._fields if name in changes}
    return Figures(STATE._replace(**state), OUTLET._replace(**outlet))  # type: ignore[arg-type]  # any field
