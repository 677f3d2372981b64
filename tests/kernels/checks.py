"""What doctor and the agent must show on a kernel; runs as the only program of an emulated machine (``init``).

A line for each check. The agent writes OTLP JSON; what must be in it is known from how the attempts were made. At the
end comes a line for the page of conformance: what the set of probes in use shows of each kind of attempt.
"""

import ctypes
import json
import os
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from otel_connect.capture import bpf, preflight
from otel_connect.capture.btf import TypeInformation
from otel_connect.capture.hooks import ProbeSet, Sight, find_sight
from otel_connect.model import Outcome
from tests.support.agent import RunningAgent
from tests.support.bench import Bench, Family
from tests.support.cases import CASES
from tests.support.cgroups import cgroup
from tests.support.conformance import Column, differences, kernel_name
from tests.support.flood import Flood
from tests.support.ledger import exit_ledgers
from tests.support.measure import measure, sets_of_this_host
from tests.support.network import closed_port
from tests.support.otlp_json import data_points
from tests.support.peer import Answer, Behaviour
from tests.support.resolver import Resolver
from tests.support.runtimes import PYTHON

COMMAND = (sys.executable, "-m", "otel_connect")
PROGRAMS = Path("/tests/bin")
ONCE, FLOOD = f"{PROGRAMS}/once", f"{PROGRAMS}/flood"
SETTINGS = Path("/etc/otel-connect.toml")
COMMIT = Path("/tests/commit")
SLOW_S = 600.0
"""How long something may take that has LLVM at work in emulation."""
WORKERS = 8
"""With more cases at one time, programs wait longer for a processor than for an answer."""

FILTERED_PORT = 4444
FILTERED = 5
FLOODED = 400
SHORT_LIVED = 10
GROUP = "otc.slice/short.service"
PATIENCE = 1_000_000
"""How many instructions the verifier looks at before it refuses a program, since Linux 5.2."""
TRACING = 26  # of enum bpf_prog_type
NEXT_ID, OPEN_ID, INFO = 11, 13, 15  # of bpf(): BPF_PROG_GET_NEXT_ID and so on
VERIFIED_AT = 216  # of struct bpf_prog_info; since Linux 5.16

NAME, ADDRESS = "web.test", "127.0.0.80"
ASKING = f"""
import socket
for found in socket.getaddrinfo("{NAME}", 8080, socket.AF_INET, socket.SOCK_STREAM):
    with socket.socket(*found[:3]) as made:
        made.connect_ex(found[4])
"""
# Prints the pid that its child has here; the child's own is 1.
INSIDE = """
import ctypes, os, sys
assert ctypes.CDLL(None).unshare(0x20000000) == 0
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], {})
os.waitpid(pid, 0)
print(pid)
"""


class Report:
    """Prints a line for each check, and remembers whether all went well."""

    def __init__(self) -> None:
        self.all_right = True
        self._kernel = os.uname().release

    def check(self, name: str, make: Callable[[], str]) -> None:
        """Run one check: what it returns is worth telling, what it raises is what is wrong."""
        try:
            state, told = "ok", make()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other checks follow
            state, told = "WRONG", f"{type(error).__name__}: {error}"
            self.all_right = False
        self.tell(state, name, told)

    def tell(self, state: str, name: str, told: str) -> None:
        """Print a line."""
        print(f"{state:<8}{self._kernel}  {name}: {told}", flush=True)


class Evidence:
    """An agent at work, and the attempts that are made for it."""

    def __init__(self, stack: ExitStack) -> None:
        self.bench = stack.enter_context(Bench())
        self.port = stack.enter_context(closed_port())
        command = (*COMMAND, "run", "--output", "json", "--config", str(SETTINGS))
        self.agent = stack.enter_context(RunningAgent(command=command, ready_s=SLOW_S))
        self.sight = find_sight(TypeInformation(preflight.read_btf()), "auto")
        assert any(f"({self.sight.probes} probes)" in line for line in self.agent.errors), self.agent.errors
        self.flood_pid = 0

    def records(self, *pids: int, count: int) -> list[dict[str, Any]]:
        """Wait for the attempts of processes, so many; the attributes of each, in the order of their beginning."""
        self.agent.until(lambda: len(self._attempts(*pids)) >= count, 60)
        found = sorted(self._attempts(*pids), key=lambda record: int(record["timeUnixNano"]))
        assert len(found) == count, f"{len(found)} records instead of {count}"
        return [record["attributes"] for record in found]

    def short_lived(self) -> str:
        """Let processes of a cgroup make one attempt and end."""
        argv = [ONCE, str(self.port)]
        with cgroup(GROUP):
            pids = [_ended(argv) for _ in range(SHORT_LIVED)]
        for record in self.records(*pids, count=SHORT_LIVED):
            assert record["otel_connect.outcome"] == "refused", record
            assert record["process.executable.path"] == ONCE, record
            assert record["process.command_args"] == argv, record
            assert record["process.linux.cgroup"] == f"0::/{GROUP}", record
        return f"{SHORT_LIVED}, each with its executable, arguments and cgroup"

    def inside(self) -> str:
        """Let a process make an attempt that is the first of its PID namespace."""
        argv = [sys.executable, "-c", INSIDE, ONCE, str(self.port)]
        pid = int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
        [record] = self.records(pid, count=1)
        assert record["process.vpid"] == 1, record
        return f"{pid} is 1 inside"

    def dropped(self) -> str:
        """Make an attempt whose SYN this host drops, since nobody has the address."""
        run = self.bench.run(self.bench.neighbourless(Family.IPV4))
        [record] = self.records(run.pid, count=1)
        reason: str | None = record.get("otel_connect.drop.reason")
        assert reason == ("neigh_failed" if self.sight.drops else None), record
        return reason or "nothing is said where the kernel says nothing"

    def name(self) -> str:
        """Connect to a name in a network namespace of its own."""
        Path("/etc/resolv.conf").write_text("nameserver 127.0.0.53\n", encoding="ascii")
        with Resolver({NAME: [("A", ADDRESS)]}, self.bench.namespace):
            with self.bench.namespace.popen([sys.executable, "-c", ASKING]) as process:
                process.communicate(timeout=60)
            [record] = self.records(process.pid, count=1)
        found = record["server.address"], record.get("otel_connect.server.address.matched_by")
        assert found == (NAME, "process"), found
        return f"{ADDRESS} is {NAME}, by the lookup of the process"

    def filtered(self) -> str:
        """Make attempts of which nobody wants a record, and then one of which somebody does."""
        pids = [_ended([ONCE, str(FILTERED_PORT)]) for _ in range(FILTERED)]
        self.records(_ended([ONCE, str(self.port)]), count=1)
        assert not self.agent.attempts(*pids)
        return f"{FILTERED} attempts without a record"

    def flood(self) -> str:
        """Make more attempts than a process may have records of."""
        with Flood([FLOOD, "refused", str(FLOODED)], None) as flood:
            assert flood.report() == {Outcome.REFUSED: FLOODED}
        self.flood_pid = flood.pid
        return f"{FLOODED} attempts of one process"

    def account(self) -> str:
        """Stop the agent: to the unit, its account says what is known of the attempts."""
        assert self.agent.stop() == 0, self.agent.errors
        ledger = exit_ledgers(self.agent.errors)["logs"]
        throttled = FLOODED - len(self._attempts(self.flood_pid))
        assert 0 < throttled < FLOODED, throttled
        assert ledger.dropped == {"filtered": FILTERED, "kernel_throttled": throttled}, ledger
        assert (ledger.queued, ledger.difference) == (0, 0), ledger
        counted = self._counted()
        assert counted == ledger.seen, f"{counted} in the metrics, {ledger}"
        parts = f"{ledger.exported} records + {FILTERED} filtered + {throttled} throttled"
        return f"{ledger.seen} seen = {parts} = {counted} in the metrics; difference 0"

    def outlived(self) -> str:
        """Let connect() return when the program that is to see that is gone, and the kernel's way to it."""
        function = TypeInformation(preflight.read_btf()).function("__sys_connect_file")
        if self.sight.probes is not ProbeSet.FEXIT or function is None:
            return "no programs on functions"
        target = self.bench.scripted(Family.IPV4, Behaviour(Answer.SILENT))
        program = bpf.load_tracing(bpf._NOTHING, "trial", bpf.Attach.FEXIT, function)
        attached = bpf.attach_tracing(program)
        argv = [*PYTHON, target.host, str(target.port), "1", "0", "--syn-retries", "3"]
        with self.bench.namespace.popen(argv) as client:
            self.bench.peer.wait_for_syn(target.port)
            os.close(attached)
            os.close(program)
            told, _ = client.communicate(timeout=120)
        assert "ETIMEDOUT" in told, told
        return "its connect() returned"

    def _attempts(self, *pids: int) -> list[dict[str, Any]]:
        return [one for one in self.agent.attempts(*pids) if one["eventName"] == "otel_connect.attempt"]

    def _counted(self) -> int:
        """How many attempts the last values of all series have."""
        documents = (json.loads(line) for line in self.agent.output if line.startswith('{"resourceMetrics"'))
        last = {
            (str(point["resource"]), str(point["attributes"])): point["value"]
            for point in data_points(documents)
            if point["name"] == "otel_connect.attempts"
        }
        return sum(last.values())


def conformance() -> str:
    """Make every case of the page of conformance, and print the columns of this kernel for it."""
    told: list[str] = []
    wrong: list[str] = []
    cells = measure(
        CASES, sets_of_this_host(), command=(*COMMAND, "run"), ready_s=SLOW_S, programs=PROGRAMS, workers=WORKERS
    )
    for probes, found in cells.items():
        column = Column(
            kernel_name(os.uname().release), probes, COMMIT.read_text("ascii"), f"{datetime.now(UTC):%Y-%m-%d}", found
        )
        wrong += differences(column, None, found)
        counts = Counter(said.partition(":")[0] for said in found.values())
        told.append(f"{probes}: " + ", ".join(f"{count} {said}" for said, count in counts.items()))
        print(f"column  {column.path.name} {json.dumps(json.loads(column.written()))}", flush=True)
    assert not wrong, "; ".join(wrong)
    return "; ".join(told)


def doctor() -> str:
    ended = subprocess.run(
        [*COMMAND, "doctor", "--config", str(SETTINGS)], capture_output=True, text=True, timeout=SLOW_S, check=False
    )
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0, (ended.stdout, ended.stderr)
    lacking = [line for line in lines if not line.startswith("ok ")]
    (attached,) = [line for line in lines if line.startswith("ok      probes compile, load and attach (")]
    assert {line.partition(":")[0] for line in lacking} <= {
        "without failures before a SYN",
        "without reasons for drops",
    }, lines
    return f"{attached[8:]}; {'; '.join(lacking)}"


def verified(sight: Sight) -> str:
    """Ask the kernel of each program how long the verifier took over it; there are none but the agent's here."""
    counts: list[int] = []
    kinds = set()
    asked = ctypes.create_string_buffer(12)
    with suppress(FileNotFoundError):  # there is no other
        while True:
            bpf._bpf_in_place(NEXT_ID, asked)
            (number,) = struct.unpack_from("=I", asked, 4)
            struct.pack_into("=III", asked, 0, number, 0, 0)
            program = bpf._bpf(OPEN_ID, asked.raw)
            info = ctypes.create_string_buffer(232)
            bpf._bpf(INFO, struct.pack("=IIQ", program, len(info), ctypes.addressof(info)))
            os.close(program)
            kinds.add(struct.unpack_from("=I", info)[0])
            counts += struct.unpack_from("=I", info, VERIFIED_AT)
    assert len(counts) >= 7, counts
    assert max(counts) < PATIENCE / 2, counts
    if sight.probes is ProbeSet.FEXIT:  # no system call is slower: nothing is attached to the tracepoints of any
        assert kinds == {TRACING}, kinds
    return f"{max(counts)} of {PATIENCE} instructions" if max(counts) else "this kernel does not tell"


def _ended(argv: Sequence[str]) -> int:
    """Run a program to its end, and return what its pid was."""
    with subprocess.Popen(argv) as process:
        pass
    assert process.returncode == 0, argv
    return process.pid


def main() -> int:
    """Run every check; returns 0 if all went well."""
    # What makes the probes largest is switched on.
    SETTINGS.write_text(
        "[capture]\nprocess_rate = 20\nprocess_burst = 80\n"
        "[enrich]\ncommand_args = true\nvpid = true\ncgroup_path = true\n"
        f"[[filter.deny]]\nport = {FILTERED_PORT}\n",
        encoding="ascii",
    )
    report = Report()
    report.check("doctor", doctor)
    report.check("conformance", conformance)
    with ExitStack() as stack:
        evidence = Evidence(stack)
        report.check("the verifier", partial(verified, evidence.sight))
        report.check("short-lived processes", evidence.short_lived)
        report.check("a PID namespace", evidence.inside)
        report.check("a drop", evidence.dropped)
        report.check("a name", evidence.name)
        report.check("a filter", evidence.filtered)
        report.check("a flood", evidence.flood)
        report.check("the account", evidence.account)
        report.check("an attempt that outlives the agent", evidence.outlived)
    return 0 if report.all_right else 1


if __name__ == "__main__":
    sys.exit(main())
