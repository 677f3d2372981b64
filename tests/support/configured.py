"""Runs of real agents, each with some keys of its configuration set, and what was seen of them.

The keys come in a file, in variables, or by a reload; then the same programs make the same attempts, whatever is set,
so that two runs can be compared. Agents that run beside each other see the same attempts.
"""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, NamedTuple, Self

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_connect.environment import variables
from otel_connect.model import Signal
from tests.support.agent import RunningAgent
from tests.support.cgroups import cgroup
from tests.support.collector import await_until
from tests.support.kubelet import ID, UID, Kubelet, serving
from tests.support.network import NetworkNamespace, closed_port
from tests.support.ordered import Ordered
from tests.support.otlp_json import Fields, data_points, log_records, spans
from tests.support.publisher import Publisher
from tests.support.receiver import (
    Certificates,
    GrpcReceiver,
    HttpReceiver,
    Received,
    Receiver,
    Reply,
    ServerTls,
    make_certificates,
)
from tests.support.status import Status, unix_listen

PEER, PEER_6 = "10.77.167.44", "fd77:1:2:3:4:5:6:7744"  # nobody else has these
SPACED, PAUSE_S = 5, 0.25
BACKENDS = ("plain", "secure", "grpc")
KEY = b"a key of the tests, and of nobody else"
_AWAIT_S = 60.0
TOKEN = "a-token-of-the-tests"  # noqa: S105 - of a kubelet of the tests' own

_MESSAGES: Mapping[Signal, Any] = {
    Signal.LOGS: ExportLogsServiceRequest,
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.TRACES: ExportTraceServiceRequest,
}

_CLIENT = """
import socket, sys, time
for line in sys.stdin:
    address, port, many, pause = line.split()
    for _ in range(int(many)):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
            client.connect_ex((address, int(port)))
        time.sleep(float(pause))
    print("done", flush=True)
"""


class Client(Ordered):
    """A program that connects when it is told to; its file can be renamed while it runs."""

    def __init__(self, folder: Path, name: str, namespace: NetworkNamespace) -> None:
        self.path = folder / name
        shutil.copy(os.path.realpath("/usr/bin/python3"), self.path)
        super().__init__([*namespace.command([str(self.path)]), "-ISc", _CLIENT, "--password", "hunter2"])

    def connect(self, address: str, port: int, many: int = 1, pause_s: float = 0.0) -> None:
        """Connect so often, and wait until it has."""
        self.order(f"{address} {port} {many} {pause_s}")

    def rename(self) -> None:
        """Move the file that it runs: only who was told before knows how it was called."""
        renamed = self.path.with_name(f"{self.path.name}-")
        self.path.rename(renamed)
        self.path = renamed


class Ports(NamedTuple):
    """Where attempts go: to be refused, to be refused and filtered, to be accepted."""

    refused: int
    filtered: int
    open: int


class Place:
    """What all runs share: programs, ports, certificates."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        stack.enter_context(cgroup(f"otc-{os.getpid()}/kubepods/pod{UID}/{ID}"))  # all that is started here
        self.network = stack.enter_context(NetworkNamespace())
        self.network.ip(f"addr add {PEER}/32 dev lo")
        self.network.ip(f"addr add {PEER_6}/128 dev lo nodad")
        opened = self.network.inside(lambda: socket.create_server(("127.0.0.1", 0), backlog=4096))
        refused, filtered = (stack.enter_context(closed_port(namespace=self.network)) for _ in range(2))
        self.ports = Ports(refused, filtered, stack.enter_context(opened).getsockname()[1])
        self.certificates: Certificates = make_certificates(folder)
        self.key_file, self.token_file = folder / "key", folder / "token"
        self.key_file.write_bytes(KEY)
        self.token_file.write_text(TOKEN)
        self.client = stack.enter_context(Client(folder, "client", self.network))
        self.publisher = stack.enter_context(Publisher(*self.network.command([])))
        self.publisher.order("publish published-name 1")

    def make_folder(self) -> Path:
        """Make a folder that nobody else uses."""
        return Path(tempfile.mkdtemp(dir=self.folder))


Keys = Mapping[str, Any]


class Scenario(NamedTuple):
    """Keys that are set together."""

    keys: Callable[["Run"], Keys]
    script: Sequence[Reply] = ()
    """How the plain backend answers."""
    flood: int = 200


@dataclass(frozen=True)
class Seen:
    """What was seen of a run."""

    keys: Keys
    requests: Mapping[str, list[Received]]
    """By the kind of the backend."""
    status: Fields
    output: list[str]
    errors: list[str]
    capabilities: int
    connections: int
    """How many connections the plain backend had at one time."""
    spooled: bool
    """Whether there is a database in the folder of the run."""
    tokens: list[str | None]
    """With which the kubelet was asked."""
    pids: Mapping[str, int]
    paths: tuple[str, ...]
    """What the file of the client was called, one after the other."""
    ports: Ports

    @cached_property
    def documents(self) -> list[Fields]:
        """Return all that was sent, or written, as OTLP JSON."""
        sent = [document(one) for received in self.requests.values() for one in received]
        return sent + [json.loads(line) for line in self.output if line.startswith('{"resource')]

    def records(self, who: str = "client", port: int | None = None) -> list[Fields]:
        """Return the log records of a program, in the order of their attempts; to one port, or to all."""
        found = [one for one in log_records(self.documents) if one["attributes"].get("process.pid") == self.pids[who]]
        return sorted((one for one in found if port in {None, _port(one)}), key=lambda one: int(one["timeUnixNano"]))

    def spans(self, port: int) -> list[Fields]:
        """Return the spans of the client's attempts at a port."""
        ours = [one for one in spans(self.documents) if one["attributes"].get("process.pid") == self.pids["client"]]
        return [one for one in ours if _port(one) == port]

    def counted(self, port: int) -> list[Fields]:
        """Return the data points about attempts at a port."""
        return [one for one in data_points(self.documents) if _port(one) == port]

    @property
    def values(self) -> set[Any]:
        """Return every value on the client's records that can be compared."""
        return {value for one in self.records() for value in one["attributes"].values() if isinstance(value, str | int)}

    def requests_of(self, records: Sequence[Fields]) -> list[Received]:
        """Return the requests that these records came in."""
        ids = {one["attributes"]["otel_connect.event.id"] for one in records}
        received = [one for each in self.requests.values() for one in each if one.signal is Signal.LOGS]
        return [one for one in received if ids.intersection(one.ids)]

    @property
    def delay_s(self) -> float:
        """Return how long after its attempt a record was made, in the median."""
        records = self.records(port=self.ports.refused)[:SPACED]
        return median(float(one["observedTimeUnixNano"] - one["timeUnixNano"]) / 1e9 for one in records)

    def signals(self, backend: str) -> set[Signal]:
        """Return what a backend was sent."""
        return {one.signal for one in self.requests[backend]}


def _port(one: Fields) -> int | None:
    attributes: Fields = one["attributes"]
    return attributes.get("server.port") or attributes.get("network.peer.port")


@dataclass(frozen=True)
class Traffic:
    """The attempts that all agents of one time have seen."""

    flooder: int
    """The pid of the program that made many."""
    paths: tuple[str, ...]
    """What the file of the client was called, one after the other."""


class Run:
    """An agent with the keys of a scenario, and with backends and a kubelet of its own."""

    def __init__(self, place: Place, scenario: Scenario, way: str) -> None:
        self.place = place
        self._way = way
        self._stack = ExitStack()
        self.folder = place.make_folder()
        made = place.certificates
        tls = ServerTls(made.server, made.server_key, client_authority=made.authority)
        self.plain: Receiver = self._stack.enter_context(HttpReceiver(scenario.script))
        self.secure: Receiver = self._stack.enter_context(HttpReceiver(tls=tls))
        self.grpc: Receiver = self._stack.enter_context(GrpcReceiver())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.server, made.server_key)
        self.kubelet: Kubelet = self._stack.enter_context(serving(context))
        self._keys = scenario.keys(self)
        self._first = unix_listen(self.folder)
        self._basis: dict[str, Any] = {"serve.listen": self._first}
        if self._keys.get("export.output") != "json":
            self._basis["export.endpoint"] = self.plain.endpoint
        self._file = self.folder / "otel-connect.toml"
        self._requests_before: Mapping[str, int] = {}
        self._errors_before = 0
        self._agent: RunningAgent

    def start(self) -> None:
        """Start the agent; where a reload brings the keys, without them."""
        write(self._file, {**self._basis, **self._keys} if self._way == "file" else self._basis)
        environment = as_variables(self._keys) if self._way == "environment" else {}
        agent = RunningAgent("--config", str(self._file), environment=environment)
        self._agent = self._stack.enter_context(agent)

    def await_client(self) -> None:
        """Wait until the agent has sent what it knows of the client."""

        def delivered() -> bool:
            sent = self.plain.requests
            logs = [document(one) for one in sent if one.signal is Signal.LOGS]
            ours = [one for one in log_records(logs) if one["attributes"].get("process.pid") == self.place.client.pid]
            return bool(ours) and any(one.signal is Signal.TRACES for one in sent)

        self._agent.until(delivered, _AWAIT_S)

    def reload(self) -> None:
        """Give the keys to the running agent; what there was until it had them is left out of what is seen."""
        agent = self._agent
        write(self._file, {**self._basis, **self._keys})
        agent.process.send_signal(signal.SIGHUP)
        agent.until(lambda: any("configuration reloaded" in line for line in agent.errors), _AWAIT_S)
        self._errors_before = next(i for i, line in enumerate(agent.errors) if "configuration reloaded" in line)
        self._requests_before = {name: len(getattr(self, name).requests) for name in BACKENDS}

    def finish(self, traffic: Traffic) -> Seen:
        """Wait for a report of the traffic, stop the agent, and say what was seen."""
        place, agent = self.place, self._agent
        status, connections = settled(agent, self._keys.get("serve.listen", self._first), self.plain)
        capabilities = effective_capabilities(agent.process.pid)
        self._stack.close()
        return Seen(
            self._keys,
            {name: getattr(self, name).requests[self._requests_before.get(name, 0) :] for name in BACKENDS},
            status,
            agent.output,
            agent.errors[self._errors_before :],
            capabilities,
            connections,
            (self.folder / "spool" / "spool.db").exists(),
            [token for _, token in self.kubelet.asked],
            {"client": place.client.pid, "publisher": place.publisher.pid, "flood": traffic.flooder},
            traffic.paths,
            place.ports,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, value, trace)


def observe(place: Place, scenarios: Mapping[str, Scenario], way: str) -> dict[str, Seen]:
    """Run an agent for each scenario, all beside each other, with its keys by ``file``, ``environment`` or ``reload``.

    They all see the same attempts, made once.
    """
    paths = [str(place.client.path)]
    with ExitStack() as stack, ThreadPoolExecutor(len(scenarios)) as pool:
        runs = [stack.enter_context(Run(place, scenario, way)) for scenario in scenarios.values()]
        list(pool.map(Run.start, runs))
        if way == "reload":
            place.client.connect(PEER, place.ports.refused)
            list(pool.map(Run.await_client, runs))
            place.client.rename()  # what the kernel told before the reload has to be known after it
            list(pool.map(Run.reload, runs))
        flooder = make_attempts(place, max(scenario.flood for scenario in scenarios.values()))
        traffic = Traffic(flooder, (*paths, str(place.client.path)))
        return dict(zip(scenarios, pool.map(lambda run: run.finish(traffic), runs), strict=True))


def effective_capabilities(pid: int) -> int:
    """Return the mask of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))


def make_attempts(place: Place, flood: int) -> int:
    """Make the attempts; returns the pid of the program that made many."""
    ports = place.ports
    place.client.connect(PEER, ports.refused, SPACED, PAUSE_S)
    place.client.connect("127.0.0.1", ports.open, 3)
    place.client.connect("127.0.0.1", ports.filtered)
    place.client.connect(PEER_6, ports.refused)
    place.publisher.order(f"connect {ports.refused}")
    # More processes than the smallest memory for them holds.
    asks = f"for _ in {{1..20}}; do curl -s http://127.0.0.1:{ports.refused}; done"
    place.network.run(["bash", "-c", asks])
    place.client.rename()
    place.client.connect(PEER, ports.refused, SPACED, PAUSE_S)  # longer than the longest time between two looks
    with Client(place.make_folder(), "flooder", place.network) as flooder:
        flooder.connect("127.0.0.1", ports.refused, flood)
    return flooder.pid


def settled(agent: RunningAgent, listen: str, backend: Receiver) -> tuple[Fields, int]:
    """Wait for a report from half a second after the traffic; returns it, and the most connections meanwhile."""
    if not Status(listen).reachable():
        return {}, 0
    after = Status(listen).document()["uptime_s"] + 0.5
    connections = 0

    def reported() -> Fields | None:
        nonlocal connections
        connections = max(connections, established(agent.process.pid, getattr(backend, "port", 0)))
        found = Status(listen).document()
        return found if found["uptime_s"] - found["report_age_s"] > after else None

    found = await_until(reported, _AWAIT_S)
    assert found is not None
    return found, connections


def established(pid: int, port: int) -> int:
    """Count the connections of a process to a port of the loopback interface."""
    said = subprocess.run(
        ["ss", "-Htnp", "state", "established", f"dport = :{port}"], check=True, capture_output=True, text=True
    )
    return sum(f"pid={pid}," in line for line in said.stdout.splitlines())


def document(request: Received) -> Fields:
    """Return a request as OTLP JSON has it."""
    found: Fields = MessageToDict(_MESSAGES[request.signal].FromString(request.body))
    return found


def write(file: Path, keys: Keys) -> None:
    """Write keys as TOML: dotted, which needs no tables."""
    file.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in keys.items()), encoding="utf-8")


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f'"{key}" = {_toml(one)}' for key, one in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value if isinstance(value, str | int) else str(value))


def as_variables(keys: Keys) -> dict[str, str]:
    """Say the same by the variables."""
    names = {key: name for name, key in variables().items()}
    return {names[key]: _text(value) for key, value in keys.items() if key in names}


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={one}" for name, one in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)
