"""Names of peers without a packet socket: what the agent has for it, and that it can be switched off."""

from pathlib import Path

import pytest

from tests.support.agent import RunningAgent
from tests.support.status import Status, unix_listen

pytestmark = pytest.mark.captures

NAME_HOOKS = ("raw_tracepoint:net_dev_queue", "raw_tracepoint:netif_receive_skb")


def packet_sockets(pid: int) -> set[str]:
    """Return the inodes of the packet sockets that a process has in its network namespace."""
    held = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    table = Path(f"/proc/{pid}/net/packet").read_text().splitlines()[1:]
    return {inode for inode in (line.split()[-1] for line in table) if f"socket:[{inode}]" in held}


@pytest.mark.parametrize("names", [True, False])
def test_names_take_no_packet_socket_and_no_process_of_their_own_and_can_be_switched_off(
    names: bool, tmp_path: Path
) -> None:
    file, listen = tmp_path / "agent.toml", unix_listen(tmp_path)
    file.write_text(f'[enrich]\nnames = {str(names).lower()}\n[serve]\nlisten = "{listen}"\n')
    with RunningAgent("--output", "json", "--config", str(file)) as agent:
        pid = agent.process.pid
        processes = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        assert len(processes) == 2  # it and its reader
        assert [packet_sockets(one) for one in processes] == [set(), set()]
        hooks = Status(listen).document()["hooks"]
        assert all((hook in hooks) is names for hook in NAME_HOOKS)
