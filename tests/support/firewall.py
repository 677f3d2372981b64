"""Rules of a network namespace's own firewall, for one port each."""

from tests.support.network import NetworkNamespace


class Firewall:
    """Each rule drops, or rejects, what goes to a port or comes from it."""

    def __init__(self, namespace: NetworkNamespace) -> None:
        self._namespace = namespace
        self._nft("add table inet probed")
        for hook in ("input", "output"):
            self._nft(f"add chain inet probed {hook} {{ type filter hook {hook} priority 0; }}")

    def out(self, port: int, verdict: str = "drop") -> None:
        """Say what becomes of packets to a port, TCP and UDP."""
        self._nft(f"add rule inet probed output meta l4proto {{ tcp, udp }} th dport {port} {verdict}")

    def into(self, port: int) -> None:
        """Drop what comes from a port or, in another's namespace, for it."""
        self._nft(f"add rule inet probed input tcp sport {port} counter drop")
        self._nft(f"add rule inet probed input tcp dport {port} counter drop")

    def has_dropped(self) -> bool:
        """Say whether a packet that came in has been dropped."""
        return "packets 1 " in self._nft("list chain inet probed input")

    def open(self) -> None:
        """Let everything pass."""
        self._nft("flush table inet probed")

    def _nft(self, command: str) -> str:
        ended = self._namespace.run(["nft", command])
        assert ended.returncode == 0, ended.stderr
        return ended.stdout
