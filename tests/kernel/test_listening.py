"""The process that opens packet sockets: what it may do, what happens without it, and that it leaves with the agent."""

import os
import signal
from pathlib import Path

import pytest

from otel_connect.capture.privileges import CAPABILITIES
from tests.support.agent import COMMAND, RunningAgent
from tests.support.collector import await_until

pytestmark = pytest.mark.captures

OPENER = b"otel_connect.capture.opener"


def capabilities(pid: int, which: str) -> set[str]:
    """Read a set of capabilities; a number that has no name here stands for itself."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    mask = int(status[which], 16)
    names = {number: name for name, number in CAPABILITIES.items()}
    return {names.get(number, str(number)) for number in range(64) if mask >> number & 1}


def openers(agent: RunningAgent) -> list[int]:
    children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children").read_text().split()
    return [int(child) for child in children if OPENER in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_who_reads_packets_may_not_open_sockets_for_them_and_who_opens_them_reads_none() -> None:
    with RunningAgent("--output", "json") as agent:
        (opener,) = openers(agent)
        for which in ("CapEff", "CapPrm", "CapBnd"):
            assert not capabilities(agent.process.pid, which) & {"CAP_NET_RAW", "CAP_SYS_ADMIN"}
            assert capabilities(opener, which) == {"CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"}
    await_until(lambda: not Path(f"/proc/{opener}").exists())


def test_an_agent_that_is_killed_leaves_nobody_behind() -> None:
    with RunningAgent("--output", "json") as agent:
        (opener,) = openers(agent)
        agent.kill()
    await_until(lambda: not Path(f"/proc/{opener}").exists() or "Z" in Path(f"/proc/{opener}/stat").read_text())


def test_the_agent_goes_on_without_the_process_and_says_so_once() -> None:
    with RunningAgent("--output", "json") as agent:
        (opener,) = openers(agent)
        os.kill(opener, signal.SIGTERM)  # meant for the agent, which tells it to end
        assert openers(agent) == [opener]
        os.kill(opener, signal.SIGKILL)
        agent.until(lambda: any("no further network namespace" in line for line in agent.errors))
    assert sum("no further network namespace" in line for line in agent.errors) == 1


def test_without_the_privilege_the_agent_says_so_and_captures_all_the_same() -> None:
    without = ("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", "--", COMMAND, "run")
    with RunningAgent("--output", "json", command=without) as agent:
        (said,) = [line for line in agent.errors if "names" in line]
        assert "no packet socket can be opened (Operation not permitted); grant CAP_NET_RAW" in said
        assert not openers(agent)


@pytest.mark.parametrize("names", [True, False])
def test_names_can_be_switched_off(names: bool, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f"[enrich]\nnames = {str(names).lower()}\n")
    with RunningAgent("--output", "json", "--config", str(file)) as agent:
        assert bool(openers(agent)) is names
