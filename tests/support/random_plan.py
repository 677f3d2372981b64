"""Random plans of connect attempts: who does what with which sockets, and what is at the other end.

A plan follows from its seed and the targets alone. It is not careful: a socket may be connected while it is
pending, shut down before it was connected, passed on after it was closed. What of it became an attempt, and
how that ended, is found afterwards from what the client saw (``tests/support/account.py``).
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from random import Random
from typing import Any, NamedTuple

from tests.support.bench import Bench, Family, Target
from tests.support.peer import Answer, Behaviour

Step = list[Any]
"""The name of a method ``do_…`` of the player, and its arguments."""
Life = tuple[int, str, list[Step]]
"""Number, family and steps of a socket."""

LONGEST_POLL_MS = 8000  # longer than a silent peer takes to time out, on a busy machine too

SPIN_MS = 40  # longer than the scripted peer takes, mostly

LISTENER, CLOSED, NEIGHBOURLESS, ROUTED, OCCUPIED = "listener", "closed", "neighbourless", "routed", "occupied"
ROUTES = ("prohibit", "unreachable", "blackhole", "none")
_ICMP = (Answer.NET_UNREACHABLE, Answer.HOST_UNREACHABLE, Answer.PORT_UNREACHABLE, Answer.PROHIBITED)
_ICMPV4 = (Answer.HOST_UNKNOWN, Answer.PROTOCOL_UNREACHABLE)
_DELAYS_S = (0.0, 0.002, 0.01, 0.03)
_ICMP_DELAYS_S = (0.005, 0.02)  # an ICMP error that meets connect() itself is put aside; ROUTED makes those
_LIVES = 12  # of a thread
_ROUTED_IN_A_PLAN = 24  # each takes two commands to set up


class Aim(NamedTuple):
    """What an attempt is sent to, and what is known of how that answers."""

    target: Target
    kind: str | Answer
    """An answer of the scripted peer, the name of a route, or one of the constants above."""
    behaviour: Behaviour | None = None

    @property
    def scripted(self) -> bool:
        """Only one life of one plan is sent there, and the peer counts its SYNs."""
        return self.behaviour is not None


class Plan(NamedTuple):
    """What the player is told, and what each number of a target in it stands for."""

    seed: int
    processes: list[dict[str, Any]]
    aims: Sequence[Aim]

    def told(self) -> dict[str, Any]:
        """Return what the player reads."""
        targets = [(aim.target.host, aim.target.port) for aim in self.aims]
        return {"processes": self.processes, "targets": targets}


def make_plan(seed: int, bench: Bench, attempts: int) -> Plan:
    """Plan about so many attempts."""
    writer = _Writer(Random(seed), bench)
    processes = []
    while writer.planned < attempts:
        processes.append(writer.process())
    return Plan(seed, processes, writer.aims)


class _Writer:
    def __init__(self, random: Random, bench: Bench) -> None:
        self.random = random
        self.bench = bench
        self.aims: list[Aim] = []
        self.planned = 0
        self._numbers = count(1)
        self._routed = 0
        self._shared: dict[tuple[str, Family], tuple[Aim, int]] = {}

    def process(self) -> dict[str, Any]:
        """Plan a process: one that may fork, one of several threads, or one that is killed at any moment."""
        kind = self.random.choices(("forks", "threads", "killed"), (6, 3, 2))[0]
        threads = 1 if kind == "forks" else self.random.randint(2, 6)
        lives = _Lives(self, may_fork=kind == "forks", alone=kind == "killed")
        return {
            "threads": [[lives.life(next(self._numbers)) for _ in range(_LIVES)] for _ in range(threads)],
            "killed_after_ms": self.random.randint(1, 400) if kind == "killed" else None,
        }

    def aim(self, family: Family, *, scripted: bool = False) -> int:
        """Choose a target; a ``scripted`` one counts SYNs."""
        kinds: Mapping[Callable[[Family], Aim], int] = {
            self._scripted: 60,
            self._listener: 8,
            self._closed: 12,
            self._neighbourless: 3,
            self._error_route: 9,
            self._routed_or_closed: 4,
        }
        made = self._scripted if scripted else self.random.choices(list(kinds), list(kinds.values()))[0]
        return self._add(made(family))

    def slow_aim(self, family: Family) -> int:
        """Choose a target whose answer leaves time to do something while connect() waits for it."""
        answer = self.random.choice((Answer.ACCEPT, Answer.REFUSE, Answer.SILENT))
        return self._add(self._peer(family, Behaviour(answer, self.random.choice(_DELAYS_S[2:]))))

    def raced_aim(self, family: Family) -> int:
        """Choose a target whose SYNs tell how many attempts there were: each is answered in time."""
        answer = self.random.choice((Answer.ACCEPT, Answer.REFUSE))
        return self._add(self._peer(family, Behaviour(answer, self.random.choice(_ICMP_DELAYS_S))))

    def failing_aim(self, family: Family) -> int:
        """Choose a target that fails while the program asks for the error without a pause."""
        answer = self.random.choice((Answer.REFUSE, Answer.HOST_UNREACHABLE, Answer.PROHIBITED))
        return self._add(self._peer(family, Behaviour(answer, self.random.choice(_ICMP_DELAYS_S))))

    def occupied_aim(self, family: Family) -> tuple[int, int]:
        """Return a target that is taken for one local port, and that port."""
        if (OCCUPIED, family) not in self._shared:
            target, port = self.bench.occupied(family)
            self._shared[OCCUPIED, family] = Aim(target, OCCUPIED), port
        aim, port = self._shared[OCCUPIED, family]
        return self._add(aim), port

    def _add(self, aim: Aim) -> int:
        self.aims.append(aim)
        return len(self.aims) - 1

    def _peer(self, family: Family, behaviour: Behaviour) -> Aim:
        return Aim(self.bench.scripted(family, behaviour), behaviour.answer, behaviour)

    def _scripted(self, family: Family) -> Aim:
        icmp = _ICMP if family.wire == socket.AF_INET6 else _ICMP + _ICMPV4
        answer = self.random.choices(
            (Answer.ACCEPT, Answer.REFUSE, Answer.RESET, Answer.SILENT, self.random.choice(icmp)), (30, 30, 10, 4, 26)
        )[0]
        delays = _ICMP_DELAYS_S if answer in icmp else _DELAYS_S
        on_syn = 2 if self.random.random() < 0.02 else 1
        return self._peer(family, Behaviour(answer, self.random.choice(delays), on_syn))

    def _listener(self, family: Family) -> Aim:
        return Aim(self.bench.listener(family), LISTENER)

    def _closed(self, family: Family) -> Aim:
        return Aim(self.bench.closed(family), CLOSED)

    def _neighbourless(self, family: Family) -> Aim:
        return Aim(self.bench.neighbourless(family), NEIGHBOURLESS)

    def _error_route(self, family: Family) -> Aim:
        kind = self.random.choice(ROUTES)
        return Aim(self.bench.error_route(family, kind), kind)

    def _routed_or_closed(self, family: Family) -> Aim:
        self._routed += 1
        if self._routed > _ROUTED_IN_A_PLAN:
            return self._closed(family)
        kind = self.random.choice(("unreachable", "none"))
        return Aim(self.bench.routed(family, kind), f"{ROUTED}: {kind}")


class _Lives:
    """Plans sockets of one process: ``alone`` it passes none on, and uses only targets that count SYNs."""

    def __init__(self, writer: _Writer, *, may_fork: bool, alone: bool) -> None:
        self._writer = writer
        self._random = writer.random
        self._may_fork = may_fork
        self._alone = alone
        self._family = Family.IPV4
        self._occupied: int | None = None

    def life(self, number: int) -> Life:
        """Plan a socket from its making to its end."""
        self._family = self._random.choice(list(Family))
        steps: list[Step] = []
        self._occupied = None
        if not self._alone and self._chance(0.08):
            self._occupied, port = self._writer.occupied_aim(self._family)
            steps.append(["bind", port])
        elif self._chance(0.2):
            steps.append(["bind"])
        if self._chance(0.05):
            steps.append(["patience", 15])
        if self._chance(0.03):
            steps.append(["shutdown", self._random.randrange(3)])
        for _ in range(self._random.choice((1, 1, 2, 2, 3))):
            steps += self._attempt()
            self._writer.planned += not self._alone  # most of what is killed is never begun
        return number, "IPv4" if self._family is Family.IPV4 else "IPv6", steps + self._chosen([["linger"]], 0.2)

    def _attempt(self) -> list[Step]:
        weights = (74, 10, 10, 6 if not self._alone else 0)
        kind = self._random.choices(("plain", "watched", "spun", "race"), weights)[0]
        if kind == "spun":
            aim = self._writer.failing_aim(self._family)
            return [["blocking", False], ["connect", aim], ["spin", SPIN_MS], *self._conclude(aim)]
        if kind == "race" and self._chance(0.5):
            return [["blocking", False], ["unspec"], ["overtaken", self._writer.raced_aim(self._family)], ["unspec"]]
        if kind == "race":
            return [
                ["blocking", True],
                ["patience", 0],
                ["unspec"],
                ["race", self._writer.raced_aim(self._family)],
                ["unspec"],
            ]
        if kind == "watched":
            action = self._random.choice(("close", "shutdown", "signal"))
            watched = ["watched", self._writer.slow_aim(self._family), action]
            return [["blocking", True], ["unspec"], watched, *self._chosen([["unspec"]], 0.5)]
        aim = self._writer.aim(self._family, scripted=self._alone)
        if self._occupied is not None and self._chance(0.5):
            aim = self._occupied
        if self._chance(0.35):
            return [["blocking", True], ["connect", aim], *self._meddle(aim, 1)]
        return [["blocking", False], ["connect", aim], *self._going_on(aim)]

    def _going_on(self, aim: int) -> list[Step]:
        """Go on with an attempt that may be pending, here or elsewhere."""
        steps = self._meddle(aim, 3)
        where = self._random.choices(("here", "thread", "pass", "fork"), (70, 8, 14, 14))[0]
        conclusion = self._meddle(aim, 2) + self._conclude(aim)
        if where == "thread":
            return [*steps, ["thread", conclusion]]
        if where == "pass" and not self._alone:
            return [*steps, ["pass", conclusion, self._chance(0.5)]]
        if where == "fork" and self._may_fork:
            return [*steps, ["fork", self._in_child(conclusion), self._chance(0.5)]]
        return steps + conclusion

    def _in_child(self, conclusion: list[Step]) -> list[Step]:
        match self._random.randrange(4):
            case 0:
                return [["die"]]
            case 1:
                watched = ["watched", self._writer.slow_aim(self._family), "kill"]
                return [["unspec"], ["blocking", True], watched]
            case 2:
                return [*conclusion, ["die"]]
            case _:
                return conclusion

    def _meddle(self, aim: int, most: int) -> list[Step]:
        """Do something that ends no attempt, mostly."""
        return [step for _ in range(self._random.randint(0, most)) for step in self._meddling(aim)]

    def _meddling(self, aim: int) -> list[Step]:
        kind = self._random.choice(("poll", "error", "connect", "another", "dup", "spin", "dup and close"))
        match kind:
            case "poll":
                return [["poll", self._random.choice((0, 3, 30))]]
            case "connect":
                return [["connect", aim]]
            case "another":
                return [["connect", self._writer.aim(self._family, scripted=self._alone)]]
            case "spin":
                return [["spin", SPIN_MS]]
            case "dup and close":
                return [["dup"], ["close"]]
        return [[kind]]

    def _conclude(self, aim: int) -> list[Step]:
        wait: Step = ["poll", LONGEST_POLL_MS]
        return self._random.choices(
            (
                [wait, ["error"], ["connect", aim]],
                [wait, ["error"]],
                [wait, ["connect", aim]],
                [["shutdown", self._random.randrange(3)]],
                [["unspec"]],
                [["linger"], ["close"]],
                [["close"]],
            ),
            (25, 15, 20, 10, 10, 7, 13),
        )[0]

    def _chance(self, of: float) -> bool:
        return self._random.random() < of

    def _chosen(self, steps: list[Step], of: float) -> list[Step]:
        return steps if self._chance(of) else []
