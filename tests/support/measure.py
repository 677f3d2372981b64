"""Makes every case of the table of ends once, with an agent of each set of probes at work, and fills their cells."""

import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from otel_connect.capture import preflight
from otel_connect.capture.btf import TypeInformation
from otel_connect.capture.hooks import ProbeSet, Sight, find_sight
from tests.support.agent import COMMAND, RunningAgent
from tests.support.bench import Bench, Run
from tests.support.case import Case, run_all
from tests.support.conformance import Attributes, status

Peers = Mapping[tuple[str, int], int]
ROUNDS = 3
CATCH_UP_S = 60.0


def sets_of_this_host() -> list[ProbeSet]:
    """Return the sets of probes that the kernel of this machine allows."""
    best = find_sight(_types(), "auto").probes
    return [one for one in ProbeSet if one.calls <= best.calls]


def measure(
    cases: Sequence[Case],
    probes: Iterable[ProbeSet],
    *,
    hidden: Callable[[], Peers] = dict,
    command: Sequence[str | Path] = (COMMAND, "run"),
    ready_s: float = 180.0,
    programs: Path | None = None,
    workers: int = 64,
) -> dict[ProbeSet, dict[str, str]]:
    """Return what each set shows in the cells of cases.

    ``hidden`` says for how many attempts to each peer this machine has hidden the end from all probes so far; what went
    there meanwhile is made again, as is what met a peer that was late. ``programs`` is a folder with the clients in C,
    if they are not to be compiled.
    """
    with ExitStack() as stack:
        bench = stack.enter_context(Bench(programs=programs))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with ThreadPoolExecutor() as pool:  # each has to wait for a compiler
            started = pool.map(lambda one: (one, _agent(one, folder, command, ready_s)), probes)
            agents = {one: stack.enter_context(agent) for one, agent in started}
        runs = _run_all(bench, cases, hidden, workers)
        for one, agent in agents.items():
            _catch_up(agent, cases, runs, find_sight(_types(), one))
            assert agent.stop() == 0, agent.errors
        return {one: _cells(cases, runs, agent, find_sight(_types(), one)) for one, agent in agents.items()}


def _types() -> TypeInformation:
    return TypeInformation(preflight.read_btf())


def _agent(probes: ProbeSet, folder: Path, command: Sequence[str | Path], ready_s: float) -> RunningAgent:
    """Start an agent with a set of probes, without limits: all these attempts are those of one host and cgroup."""
    settings = folder / f"{probes}.toml"
    capture = f"[capture]\nprobes = '{probes}'\nprocess_rate = 0\ncgroup_rate = 0\n"
    settings.write_text(f"{capture}[serve]\nlisten = 'off'\n", encoding="ascii")
    return RunningAgent("--output", "json", "--config", str(settings), command=command, ready_s=ready_s)


def _run_all(bench: Bench, cases: Sequence[Case], hidden: Callable[[], Peers], workers: int) -> dict[str, Run]:
    """Make the cases, and again those to peers that were late, or of which an end was hidden meanwhile."""
    runs: dict[str, Run] = {}
    again = cases
    for _ in range(ROUNDS):
        before = Counter(hidden())
        runs |= run_all(bench, again, workers)
        peers = (Counter(hidden()) - before).keys()
        again = [case for case in again if runs[case.name].target[1:] in peers or case.was_late(runs[case.name])]
    return runs


def _catch_up(agent: RunningAgent, cases: Sequence[Case], runs: Mapping[str, Run], sight: Sight) -> None:
    """Wait until an agent has told all that it should tell, or has had time enough for it."""
    pids = {run.pid for run in runs.values()}
    wanted = sum(_told(case, runs[case.name], sight) for case in cases)
    deadline = time.monotonic() + CATCH_UP_S
    while sum(record["attributes"].get("process.pid") in pids for record in agent.records()) < wanted:
        if time.monotonic() > deadline:
            break  # what is missing is said of its cell
        time.sleep(0.1)


def _told(case: Case, run: Run, sight: Sight) -> int:
    lost = case.unseen(sight)
    if run.absent:
        return 0
    return len(lost.said) if lost else len(case.expected)


def _cells(cases: Sequence[Case], runs: Mapping[str, Run], agent: RunningAgent, sight: Sight) -> dict[str, str]:
    by_pid, by_peer = defaultdict(list), defaultdict(list)
    for record in sorted(agent.records(), key=lambda record: int(record["timeUnixNano"])):
        attributes: Attributes = record["attributes"]
        by_pid[attributes.get("process.pid")].append((int(record["timeUnixNano"]), attributes))
        by_peer[attributes.get("network.peer.address")].append(attributes)
    cells = {}
    for case in cases:
        run = runs[case.name]
        found = by_peer[run.target.address]
        if not case.by_peer:
            found = [attributes for began_ns, attributes in by_pid[run.pid] if began_ns in run.when_ns]
        cells[case.name] = status(case, run, found, sight)
    return cells
