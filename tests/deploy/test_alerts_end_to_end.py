"""Agent → collector → Prometheus → Alertmanager: a server refuses, somebody is told; it answers again, too.

Before that the agent is restarted under ordinary traffic with superseded attempts in it, and nobody is told anything.
"""

import errno
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import dns.message
import dns.query
import pytest

from tests.support.agent import RunningAgent
from tests.support.collector import Collector, free_ports
from tests.support.prometheus import Labels, Monitoring, Webhook
from tests.support.resolver import Resolver

pytestmark = pytest.mark.captures

FACTOR = 60
"""Five minutes are five seconds."""

CONFIG = Path(__file__).parents[2] / "examples" / "collector-config" / "prometheus.yaml"
PATIENCE_S = 120.0
ATTEMPTS_PER_SECOND = 20
NAME = "shop.test"
"""Has two addresses, of which one never answers."""
AGENT_ALERTS = {
    f"OtelConnect{name}"
    for name in ("AgentDown", "NoAgents", "AgentLosesData", "AgentCannotDeliver", "SpoolFilling", "SpoolDegraded")
}


class Address(NamedTuple):
    host: str
    port: int


class Server:
    """A server at an address of the loopback network that nobody else uses; it accepts, or refuses."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._listening: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def accept(self) -> None:
        """Accept from now on."""
        self._listening = socket.create_server(self.address, backlog=512)
        self._thread = threading.Thread(target=self._serve, args=(self._listening,), name="server")
        self._thread.start()

    def refuse(self) -> None:
        """Refuse from now on."""
        if self._listening is not None and self._thread is not None:
            self._listening.shutdown(socket.SHUT_RDWR)  # which ends accept()
            self._thread.join()
            self._listening.close()
            self._listening = None

    @property
    def accepts(self) -> bool:
        return self._listening is not None

    @staticmethod
    def _serve(listening: socket.socket) -> None:
        while True:
            try:
                listening.accept()[0].close()
            except OSError:
                return


@contextmanager
def full_listener(address: Address) -> Iterator[None]:
    """Listen with room for one connection, and take it: from then on a SYN gets no answer."""
    with socket.create_server(address, backlog=0), socket.create_connection(address):
        yield


class Client:
    """A program that asks for the name and connects, again and again; it dials both addresses if one may answer."""

    def __init__(self, server: Server, silent: Address, name_server: str) -> None:
        self._server = server
        self._silent = silent
        self._name_server = name_server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="client")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1 / ATTEMPTS_PER_SECOND):
            dns.query.udp(dns.message.make_query(NAME, "A"), self._name_server, timeout=5)
            with ExitStack() as stack:
                if self._server.accepts:
                    slow = stack.enter_context(socket.socket())
                    slow.setblocking(False)
                    assert slow.connect_ex(self._silent) == errno.EINPROGRESS
                fast = stack.enter_context(socket.socket())
                fast.connect_ex(self._server.address)


class Stage:
    """All that takes part, and what is asked of it."""

    def __init__(self, folder: Path) -> None:
        self.webhook = Webhook()
        self.collector = Collector(folder / "collector", config=CONFIG)
        port = free_ports(1)[0]
        network = f"127.{random.randrange(16, 250)}.{os.getpid() % 250}"
        self.server = Server(Address(f"{network}.1", port))
        self.silent = Address(f"{network}.2", port)
        self._name_server = f"{network}.53"
        self._records = {NAME: [("A", self.server.address.host), ("A", self.silent.host)]}
        self.client = Client(self.server, self.silent, self._name_server)
        self.monitoring = Monitoring(
            folder / "monitoring",
            page_url=self.collector.prometheus_url,
            webhook_url=self.webhook.url,
            factor=FACTOR,
        )
        # Whatever else happens on this machine: the metrics are of this network, and have room for it.
        self._settings = folder / "otel-connect.toml"
        self._settings.write_text(f'[filter]\ncount = false\n[[filter.allow]]\ncidr = "{network}.0/24"\n')
        self._agent_environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.http_endpoint,
            "OTEL_METRIC_EXPORT_INTERVAL": "250",
            "OTEL_CONNECT_LISTEN": "off",
        }

    @contextmanager
    def running(self) -> Iterator[Self]:
        with self.webhook, self.collector, full_listener(self.silent), ExitStack() as stack:
            stack.enter_context(Resolver(self._records, None, [self._name_server]))
            self.server.accept()
            stack.callback(self.server.refuse)
            stack.enter_context(self.client)
            yield self

    def agent(self) -> RunningAgent:
        return RunningAgent("--config", str(self._settings), environment=self._agent_environment)

    def await_scrapes_of_another(self, known: set[str], count: int) -> str:
        """Wait until an instance that is not known was scraped so often; return its name."""

        def another() -> str:
            found = self.monitoring.query(f"count_over_time(otel_connect_agent_heartbeat_seconds[1h]) >= {count}")
            return next((labels["instance"] for labels, _ in found if labels["instance"] not in known), "")

        return self.collector.await_until(another, PATIENCE_S)

    def ours(self, alerts: list[Labels]) -> list[Labels]:
        """Leave out alerts on what others do on this machine meanwhile, floods among it."""
        program = Path(sys.executable).resolve().name
        return [
            labels
            for labels in alerts
            if labels.get("server_address") in {NAME, self.server.address.host, self.silent.host}
            or (labels.get("process_executable_name") == program and labels.get("server_port") == str(self.silent.port))
            or (labels["alertname"] in AGENT_ALERTS and not labels.get("otel_connect_reason", "").startswith("kernel_"))
        ]

    def increased(self, outcome: str) -> float:
        """Return how many more attempts with this end were counted than when they were first seen."""
        selected = f'otel_connect_attempts_total{{server_address="{NAME}", otel_connect_outcome="{outcome}"}}'
        return sum(value for _, value in self.monitoring.query(f"increase({selected}[1h])"))

    def failing(self) -> Labels:
        address = self.server.address
        return {
            "alertname": "OtelConnectServerFailing",
            "server_address": NAME,
            "server_port": str(address.port),
            "severity": "critical",
        }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_that_refuses_is_pending_firing_and_resolved_and_a_restart_is_nothing(tmp_path: Path) -> None:
    with Stage(tmp_path).running() as stage, ExitStack() as stack:
        with stage.agent():
            stack.enter_context(stage.monitoring)
            first = stage.await_scrapes_of_another(set(), 20)
            # Before its first scrape Prometheus knows of no agent, which is a reason for an alert.
            since = time.time()
        with stage.agent():
            # Four scrapes a second: for as long as three of the shortest windows.
            stage.await_scrapes_of_another({first}, 60)
            assert stage.increased("established") > 50
            assert stage.increased("abandoned") > 50
            assert stage.ours(stage.monitoring.alerts("firing", since)) == []
            assert stage.webhook.statuses({"server_address": NAME}) == []

            stage.server.refuse()
            await_until = stage.collector.await_until
            await_until(lambda: stage.failing() in stage.monitoring.alerts("firing"), PATIENCE_S)
            assert stage.failing() in stage.monitoring.alerts("pending")
            await_until(lambda: stage.webhook.statuses(stage.failing()), PATIENCE_S)
            assert set(stage.webhook.statuses(stage.failing())) == {"firing"}

            stage.server.accept()
            await_until(lambda: "resolved" in stage.webhook.statuses(stage.failing()), PATIENCE_S)
            assert stage.monitoring.query('ALERTS{alertname="OtelConnectServerFailing"}') == []
        told = next(alert for alert in stage.webhook.received if stage.failing().items() <= alert["labels"].items())
        where = f"{NAME} port {stage.server.address.port}"
        assert told["annotations"]["summary"].endswith(f"% of the attempts to {where} fail")
        assert not [labels for labels in stage.monitoring.alerts("firing") if stage.silent.host in labels.values()]
