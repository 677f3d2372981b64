"""The bench: ``python -m tests.bench [--quick] [probes] [pipeline] [spool] [agent] [redaction]``.

Needs root, loads only loopback. Exit code 1 when attempts were lost or a total does not balance.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable

from otel_connect.run import calm_collector
from tests.bench.agent import Backend
from tests.bench.footprint import measure_footprint
from tests.bench.load import compiled_load
from tests.bench.pipeline import measure_speed
from tests.bench.plan import QUICK, WHOLE, Plan
from tests.bench.probes import measure_cost
from tests.bench.redaction import measure_redaction
from tests.bench.spool import measure_spool


def main() -> int:
    """Run the parts that were asked for, each of which ends with its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only show that it works, in about a minute")
    parser.add_argument("parts", nargs="*", choices=[[], *_PARTS], help="default: all", metavar="|".join(_PARTS))
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else WHOLE
    print(_machine(plan), flush=True)
    # The load pins itself to a core of its own; everything else shares the other one.
    os.sched_setaffinity(0, {plan.agent_core})
    calm_collector()  # as in the agent; the stock SDK, in the same process, has it as easy
    right = [_PARTS[part](plan) for part in arguments.parts or _PARTS]
    return 0 if all(right) else 1


def _probes(plan: Plan) -> bool:
    with compiled_load(plan.load_core) as load, Backend() as backend:
        cost = measure_cost(plan, load, backend)
    return _show(cost.render(), right=cost.holds)


def _pipeline(plan: Plan) -> bool:
    speed = measure_speed(plan)
    return _show(speed.render(), right=speed.balances)


def _spool(plan: Plan) -> bool:
    cost = measure_spool(plan)
    return _show(cost.render(), right=cost.balances)


def _agent(plan: Plan) -> bool:
    with compiled_load(plan.load_core) as load, Backend() as backend:
        footprint = measure_footprint(plan, load, backend)
    return _show(footprint.render(), right=footprint.holds)


def _redaction(plan: Plan) -> bool:
    return _show(measure_redaction(plan).render(), right=True)  # a time proves nothing on another machine


_PARTS: dict[str, Callable[[Plan], bool]] = {
    "probes": _probes,
    "pipeline": _pipeline,
    "spool": _spool,
    "agent": _agent,
    "redaction": _redaction,
}


def _show(text: str, *, right: bool) -> bool:
    print(f"\n{text}", flush=True)
    return right


def _machine(plan: Plan) -> str:
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores, Linux {platform.release()} {platform.machine()}, Python {platform.python_version()};"
        f" load on core {plan.load_core}, all else on core {plan.agent_core}"
    )


if __name__ == "__main__":
    sys.exit(main())
