"""The life of a real agent: privileges, signals, reloads, its pages, its service manager, its broken streams."""

import fcntl
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from otel_connect.capture.clock import Clocks
from otel_connect.capture.kernel import KernelCapture
from otel_connect.capture.layout import ClockOffsets
from otel_connect.config import DEFAULT_LISTEN, CaptureConfig
from otel_connect.model import ConnectEvent, Signal
from otel_connect.running import MADE_AT_START
from tests.support.agent import COMMAND, RunningAgent
from tests.support.collector import await_until
from tests.support.network import closed_port
from tests.support.receiver import HttpReceiver, Receiver, Reply, ServerTls, make_certificates
from tests.support.status import Status, unix_listen

pytestmark = pytest.mark.captures

SELF = os.getpid()
CLOCKS = (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)
LEAVING_S = 4.0
"""What a process may need to end on a busy machine, once it has stopped waiting."""

CLIENT = """
import socket, sys, time
port, pause, many = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
made = 0
try:
    while made < many:
        with socket.socket() as client:
            client.connect_ex(("127.0.0.1", port))
        made += 1
        print(made, flush=True)
        time.sleep(pause)
except BrokenPipeError:
    pass
"""


def connect(port: int) -> None:
    with socket.socket() as client:
        client.connect_ex(("127.0.0.1", port))


def otlp(receiver: Receiver, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRIC_EXPORT_INTERVAL": "1000", **more}


def log_records(receiver: Receiver) -> list[LogRecord]:
    bodies = [request.body for request in receiver.requests if request.signal is Signal.LOGS]
    return [
        record
        for body in bodies
        for resource in ExportLogsServiceRequest.FromString(body).resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


def attributes(record: LogRecord) -> dict[str, object]:
    return {one.key: one.value.int_value or one.value.string_value for one in record.attributes}


def of_process(receiver: Receiver, pid: int) -> list[dict[str, object]]:
    return [found for record in log_records(receiver) if (found := attributes(record)).get("process.pid") == pid]


def agent_events(receiver: Receiver) -> Counter[str]:
    names = Counter(record.event_name.removeprefix("otel_connect.agent.") for record in log_records(receiver))
    del names["otel_connect.attempt"]
    return names


def balance_of(agent: RunningAgent, name: str) -> dict[str, int]:
    """Read the account that an agent has said at its end, and hold that it balances."""
    (line,) = (line for line in agent.errors if line.startswith(f"otel-connect: {name}: seen "))
    assert "unaccounted" not in line
    found = {word: int(count) for word, count in re.findall(r"(seen|recovered|exported|queued|dropped) (\d+)", line)}
    assert found["seen"] + found.get("recovered", 0) == found["exported"] + found["queued"] + found["dropped"], line
    return found


class Supervisor:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def hear(self, timeout_s: float = 60.0) -> dict[str, str]:
        """Take the next message."""
        self._socket.settimeout(timeout_s)
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().splitlines())

    def hear_until(self, key: str) -> dict[str, str]:
        """Take messages up to the first that says this."""
        while key not in (message := self.hear()):
            pass
        return message

    def drain(self) -> None:
        """Take what has been said."""
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while self._socket.recv(4096):
                pass


def thread_states(pid: int) -> list[dict[str, str]]:
    texts = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/status")]
    return [dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line) for text in texts]


def test_privileges_are_given_up_in_every_thread_and_nothing_breaks(tmp_path: Path) -> None:
    listen, settings, spool = unix_listen(tmp_path), tmp_path / "agent.toml", tmp_path / "spool"
    settings.write_text(f'[serve]\nlisten = "{listen}"\n[export]\nspool_directory = "{spool}"\n')
    with HttpReceiver() as receiver, closed_port() as port:
        with RunningAgent("--config", str(settings), environment=otlp(receiver)) as agent:
            connect(port)
            await_until(lambda: len(of_process(receiver, SELF)) == 1)
            assert stat.S_IMODE(spool.stat().st_mode) == 0o700
            assert list(spool.iterdir())
            threads = thread_states(agent.process.pid)
            assert len(threads) >= 5  # the loop, the status server, a sender for each signal
            for thread in threads:
                assert [int(thread[name], 16) for name in ("CapInh", "CapAmb")] == [0, 0], thread["Name"]
                for name in ("CapEff", "CapPrm", "CapBnd"):
                    assert int(thread[name], 16) == 0, (thread["Name"], name)
                assert thread["NoNewPrivs"] == "1"

            # The executable of another user's process, read from its /proc: comm alone could not tell it.
            lasting = CLIENT.replace("time.sleep(pause)", "sys.stdin.read()")
            other = subprocess.Popen(
                [
                    "setpriv",
                    "--reuid=65534",
                    "--clear-groups",
                    sys.executable,
                    "-I",
                    "-S",
                    "-c",
                    lasting,
                    str(port),
                    "0",
                    "1",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
            with other:
                await_until(lambda: of_process(receiver, other.pid))
            (named,) = of_process(receiver, other.pid)
            assert named["process.executable.path"] == os.path.realpath(sys.executable)
            assert named["process.user.id"] == 65534

            # The configuration can be read again, and another socket be opened.
            moved = f"{listen}.moved"
            settings.write_text(f'[serve]\nlisten = "{moved}"\n[export]\nspool_directory = "{spool}"\n')
            agent.process.send_signal(signal.SIGHUP)
            await_until(Status(moved).reachable)
            assert not Status(listen).reachable()
            connect(port)
            await_until(lambda: len(of_process(receiver, SELF)) == 2)
        balance_of(agent, "logs")
        balance_of(agent, "traces")


def test_a_file_that_only_a_privilege_could_read_is_refused(tmp_path: Path) -> None:
    authority = make_certificates(tmp_path).authority
    authority.chmod(0o600)
    os.chown(authority, 65534, 65534)
    settings = tmp_path / "agent.toml"
    settings.write_text(f'[export]\nendpoint = "https://localhost:4318"\ncertificate = "{authority}"\n')
    ended = subprocess.run(
        [COMMAND, "run", "--config", settings],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"OTEL_CONNECT_LISTEN": "off", "STATE_DIRECTORY": str(tmp_path)},
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line == (
        f"otel-connect: {settings}: export.certificate: {authority}: certificate cannot be read (Permission denied); "
        "name a readable file"
    )


def test_certificates_are_read_again_after_privileges_are_gone(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    (tmp_path / "used").mkdir()
    used = {name: tmp_path / "used" / name for name in ("authority", "client", "client_key")}
    for name, file in used.items():
        file.write_bytes((made.stranger if name == "authority" else getattr(made, name)).read_bytes())
        file.chmod(0o600)
    listen, settings = unix_listen(tmp_path), tmp_path / "agent.toml"
    tls = ServerTls(made.server, made.server_key, client_authority=made.authority)
    with HttpReceiver(tls=tls) as receiver, closed_port() as port:
        settings.write_text(
            f'[export]\nendpoint = "{receiver.endpoint}"\ncertificate = "{used["authority"]}"\n'
            f'client_certificate = "{used["client"]}"\nclient_key = "{used["client_key"]}"\n'
        )
        with RunningAgent("--config", str(settings), environment={"OTEL_CONNECT_LISTEN": listen}) as agent:
            connect(port)
            await_until(lambda: Status(listen).document()["delivery"]["logs"]["state"] == "unhealthy")
            used["authority"].write_bytes(made.authority.read_bytes())
            agent.process.send_signal(signal.SIGHUP)
            await_until(lambda: len(of_process(receiver, SELF)) == 1, 60)
        balance_of(agent, "logs")


RELOADED = (
    '[serve]\nlisten = "{listen}"\n[encode]\nspan_name = "peer"\n[export]\nflush_interval_ms = 20\n',
    '[serve]\nlisten = "{listen}.2"\n[encode]\nspan_kind = "client"\n[enrich]\nprocess_cache_size = 16\n',
    '[serve]\nlisten = "{listen}"\n[export]\ncompression = "gzip"\ntimeout_ms = 2000\n[log]\nformat = "text"\n',
)
REFUSED = (
    '[serve]\nlisten = "{listen}"\n[encode]\nspan_slow_ms = -1\nspan_nmae = "peer"\n',
    '[serve\nlisten = "{listen}"\n',
    '[serve]\nlisten = "{listen}"\n[export]\nendpoint = "ftp://x"\n',
    '[serve]\nlisten = "unix:/no/such/directory/status.sock"\n',
)


@pytest.mark.slow
def test_a_hundred_reloads_under_load_leave_no_attempt_uncounted(tmp_path: Path) -> None:
    listen, settings = unix_listen(tmp_path), tmp_path / "agent.toml"
    settings.write_text(RELOADED[0].format(listen=listen))
    made: list[str] = []
    with Supervisor(tmp_path) as supervisor, HttpReceiver() as receiver, closed_port() as port:
        # The file alone says where to send: a variable would win over what the test writes into it.
        where = {"OTEL_METRIC_EXPORT_INTERVAL": "1000", "NOTIFY_SOCKET": str(supervisor.path)}
        target = f'\n[export.logs]\nendpoint = "{receiver.endpoint}/v1/logs"\n'
        settings.write_text(RELOADED[0].format(listen=listen) + target)
        with RunningAgent("--config", str(settings), environment=where) as agent:
            argv = [sys.executable, "-I", "-S", "-c", CLIENT, str(port), "0.001", "1000000"]
            with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as client:
                reader = threading.Thread(target=lambda: made.extend(client.stdout or ()))
                reader.start()
                supervisor.hear_until("READY")
                answers: Counter[str] = Counter()
                for number in range(50):
                    for text in (RELOADED[number % len(RELOADED)], REFUSED[number % len(REFUSED)]):
                        settings.write_text(text.format(listen=listen) + target)
                        agent.process.send_signal(signal.SIGHUP)
                        assert supervisor.hear_until("RELOADING")["MONOTONIC_USEC"].isdigit()
                        answers[supervisor.hear_until("READY")["STATUS"].partition(",")[0]] += 1
                    # The second was refused: what the first says is in force, and nothing else.
                    places = (listen, f"{listen}.2")
                    assert [Status(place).reachable() for place in places] == [number % 3 != 1, number % 3 == 1]
                client.terminate()
                reader.join()
        assert answers == {"capturing": 50, "configuration not reloaded": 50}
        logs = balance_of(agent, "logs")
        arrived = len(of_process(receiver, client.pid))
        # It may have been stopped after the attempt and before it could say so.
        assert len(made) - logs["dropped"] <= arrived <= len(made) + 1
        assert arrived > 100
        assert logs["queued"] == 0
        events = agent_events(receiver)
        assert (events["started"], events["config_reloaded"], events["stopped"]) == (1, 50, 1)
        attempts = [record for record in log_records(receiver) if record.event_name == "otel_connect.attempt"]
        assert len(attempts) == logs["exported"]


def test_a_reload_takes_what_it_can_and_names_what_it_cannot(tmp_path: Path) -> None:
    listen, settings = unix_listen(tmp_path), tmp_path / "agent.toml"
    settings.write_text(f'[serve]\nlisten = "{listen}"\n')
    with RunningAgent("--config", str(settings), "--output", "json") as agent:
        settings.write_text(
            f'[serve]\nlisten = "{listen}"\n[log]\nformat = "json"\n'
            "[capture]\nprobes = 'lite'\nring_bytes = 4096\nmax_in_progress = 9\nstale_after_s = 61\nprocess_rate = 5\n"
            "process_burst = 6\ncgroup_rate = 7\ncgroup_burst = 8\ndrain_interval_ms = 20\n"
            "[enrich]\ncommand_args = true\nnames = false\nconntrack = true\n[export]\nspool_directory = ''\n"
        )
        agent.process.send_signal(signal.SIGHUP)
        await_until(lambda: Status(listen).document()["last_reload"])
        agent.until(lambda: any(f"{'.'.join(MADE_AT_START[-1])} has changed" in line for line in agent.errors))
        said = [json.loads(line)["message"] for line in agent.errors if "needs a restart" in line]
        names = [".".join(key) for key in MADE_AT_START]
        assert said == [f"{name} has changed: needs a restart, the running value stays" for name in names]
        document = Status(listen).document()
        assert document["last_reload"]["ok"] is True
        assert document["last_reload"]["needs_restart"] == names
        assert document["ring"]["limit_bytes"] == CaptureConfig().ring_bytes
        settings.write_text("[capture]\nring_bytes = 1\n")
        agent.process.send_signal(signal.SIGHUP)
        await_until(lambda: not Status(listen).document()["last_reload"]["ok"])
        (problem,) = Status(listen).document()["last_reload"]["problems"]
        assert problem.startswith(f"{settings}: capture.ring_bytes: ")


def test_a_throttle_is_on_the_status_page_while_it_is_at_work(tmp_path: Path) -> None:
    listen, settings = unix_listen(tmp_path), tmp_path / "agent.toml"
    settings.write_text(f'[serve]\nlisten = "{listen}"\n[capture]\nprocess_rate = 10\nprocess_burst = 4\n')
    status = Status(listen)

    def throttle_of(pid: int) -> dict[str, Any] | None:
        return next((each for each in status.document()["throttles"] if each["pid"] == pid), None)

    with closed_port() as port, RunningAgent("--config", str(settings), "--output", "json") as agent:
        before = time.time()
        argv = [sys.executable, "-I", "-S", "-c", CLIENT, str(port), "0", "100000000"]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as client:
            await_until(lambda: throttle_of(client.pid))
            found = throttle_of(client.pid)
            client.kill()
        assert found is not None
        assert (found["limit"], found["executable_name"]) == ("process_rate", Path(sys.executable).resolve().name)
        document = status.document()
        assert 0 < found["withheld"] <= document["balance"]["lost"]["kernel_throttled"]
        since = datetime.fromisoformat(found["since"]).timestamp()
        assert before - 1 <= since <= time.time()
        await_until(lambda: throttle_of(client.pid) is None)
        assert agent.stop() == 0


def test_the_pages_of_a_running_agent_balance_at_any_time(tmp_path: Path) -> None:
    listen = unix_listen(tmp_path)
    status = Status(listen)
    with HttpReceiver([Reply(status=503)] * 1000) as receiver, closed_port() as port:
        with RunningAgent(environment=otlp(receiver, OTEL_CONNECT_LISTEN=listen)) as agent:
            assert stat.S_IMODE(Path(status.address.path).stat().st_mode) == 0o600
            argv = [sys.executable, "-I", "-S", "-c", CLIENT, str(port), "0", "100000000"]
            with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as client:
                seen: list[int] = []
                while len(seen) < 5:  # five reports
                    document = status.document()
                    assert document["balance"]["difference"] == 0
                    assert document["ledger"].keys() == {"logs", "metrics", "traces"}
                    for account in document["ledger"].values():
                        assert account["difference"] == 0, account
                    if document["balance"]["seen"] not in seen:
                        seen.append(document["balance"]["seen"])
                # The backend is away: not ready to receive is no reason to be restarted.
                assert document["delivery"]["logs"]["state"] == "retrying"
                assert status.get("/livez") == (200, "ok\n")
                assert status.get("/readyz") == (200, "ok\n")
                assert 'otel_connect_agent_export_healthy{otel_connect_signal="logs"} 0.0' in status.get("/metrics")[1]
                client.kill()
            receiver.answer()
            health = subprocess.run(
                [COMMAND, "health"],
                check=False,
                capture_output=True,
                text=True,
                env=os.environ | {"OTEL_CONNECT_LISTEN": listen},
            )
            assert (health.returncode, health.stdout, health.stderr) == (0, "ok\n", "")
        balance_of(agent, "logs")
        balance_of(agent, "traces")
    assert not Path(status.address.path).exists()


def test_a_port_that_is_taken_is_refused_if_it_was_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        ended = subprocess.run(
            [COMMAND, "run"],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | {"OTEL_CONNECT_LISTEN": listen},
        )
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"otel-connect: OTEL_CONNECT_LISTEN: cannot listen at {listen} (Address already in use)")


def test_the_default_port_is_done_without_if_it_is_taken() -> None:
    with ExitStack() as stack, HttpReceiver() as receiver:
        with suppress(OSError):  # whoever else has it does as well
            stack.enter_context(socket.create_server((DEFAULT_LISTEN.host, DEFAULT_LISTEN.port)))
        with RunningAgent(environment=otlp(receiver, OTEL_CONNECT_LISTEN="")) as agent:
            (warning,) = [line for line in agent.errors if "no status server" in line]
        assert f"{DEFAULT_LISTEN} (Address already in use)" in warning


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        told = {"NOTIFY_SOCKET": str(supervisor.path), "WATCHDOG_USEC": "200000"}
        with RunningAgent("--output", "json", environment=told) as agent:
            assert "READY" in supervisor.hear()
            assert supervisor.hear_until("STATUS")["STATUS"].endswith("lost")
            for _ in range(5):
                supervisor.hear_until("WATCHDOG")
            # A loop that hangs does not feed the dog; one that goes on does.
            agent.process.send_signal(signal.SIGSTOP)
            await_until(lambda: thread_states(agent.process.pid)[0]["State"].startswith("T"))
            supervisor.drain()
            with pytest.raises(TimeoutError):
                supervisor.hear(timeout_s=1.0)
            agent.process.send_signal(signal.SIGCONT)
            supervisor.hear_until("WATCHDOG")
            agent.process.send_signal(signal.SIGTERM)
            assert supervisor.hear_until("STOPPING")["STATUS"] == "stopping"
            assert agent.process.wait(30) == 0


@pytest.mark.slow
def test_a_loop_that_hangs_is_not_alive(tmp_path: Path) -> None:
    """Nobody reads standard output: when the pipe is full the loop hangs, and the pages go on."""
    listen = unix_listen(tmp_path)
    status = Status(listen)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with (
        closed_port() as port,
        subprocess.Popen(
            [COMMAND, "run", "--output", "json"], stdout=writing, env=os.environ | {"OTEL_CONNECT_LISTEN": listen}
        ) as agent,
    ):
        try:
            os.close(writing)
            await_until(status.reachable, 60)
            assert status.get("/livez")[0] == 200

            def stuck() -> bool:
                connect(port)
                return status.get("/livez")[0] == 503

            await_until(stuck, 60)
            assert "the loop has not gone round for" in status.get("/livez")[1]
            # Reports come once a second: it was noticed at the first question after ten.
            assert 10 < status.document()["report_age_s"] < 10 + LEAVING_S
            reader = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reading, 65536), b"")])
            reader.start()
            await_until(lambda: status.get("/livez")[0] == 200, 60)
            agent.terminate()
            assert agent.wait(30) == 0
            reader.join()
        finally:
            agent.kill()
            os.close(reading)


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    listen = unix_listen(tmp_path)
    with HttpReceiver([Reply(delay_s=60)] * 3) as receiver, closed_port() as port:
        agent = RunningAgent(environment=otlp(receiver, OTEL_CONNECT_LISTEN=listen))
        connect(port)
        receiver.await_requests(1)
        agent.process.send_signal(signal.SIGTERM)
        await_until(lambda: Status(listen).get("/readyz") == (503, "stopping\n"))
        assert Status(listen).get("/livez")[0] == 200
        agent.process.send_signal(signal.SIGTERM)
        assert agent.stop() == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("reply", "least_s"),
    [(Reply(status=503, headers={"Retry-After": "60"}), 0), (Reply(delay_s=60), 4)],
    ids=["away", "hangs"],
)
def test_a_backend_that_is_away_delays_the_end_by_five_seconds_at_most(reply: Reply, least_s: float) -> None:
    """One that hangs is given these five seconds; what was not answered is still there, and said."""
    with HttpReceiver([reply] * 1000) as receiver, closed_port() as port:
        with RunningAgent(environment=otlp(receiver, OTEL_CONNECT_LISTEN="off")) as agent:
            connect(port)
            receiver.await_requests(1)
            began = time.monotonic()
            assert agent.stop() == 0
            took_s = time.monotonic() - began
        receiver.close()
        balance = balance_of(agent, "logs")
        assert (balance["exported"], balance["dropped"]) == (0, 0)
        assert balance["queued"] == balance["seen"] > 0
    assert least_s < took_s < 5 + LEAVING_S


def test_a_loss_is_said_in_the_log_and_sent_as_an_event() -> None:
    refused = Reply(status=400, headers={"content-type": "text/plain"}, body=b"no such tenant")
    with HttpReceiver() as receiver, HttpReceiver() as others, closed_port() as port:
        of_logs = {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"{receiver.endpoint}/v1/logs"}
        with RunningAgent(environment=otlp(others, OTEL_CONNECT_LISTEN="off") | of_logs) as agent:
            receiver.await_requests(1)  # its own events: they are in no account
            receiver.answer(refused)
            connect(port)
            await_until(lambda: agent_events(receiver)["data_lost"], 20)
        (event,) = (one for one in log_records(receiver) if one.event_name == "otel_connect.agent.data_lost")
        lost = attributes(event)
        balance = balance_of(agent, "logs")
    assert (lost["otel_connect.signal"], lost["otel_connect.reason"]) == ("logs", "rejected_permanent")
    assert any(
        line.endswith(
            f"logs: dropped {lost['otel_connect.count']} records (rejected_permanent): HTTP 400: no such tenant"
        )
        for line in agent.errors
    )
    assert balance["dropped"] == lost["otel_connect.count"]


def test_what_an_earlier_run_left_is_recovered_and_in_the_account(tmp_path: Path) -> None:
    state, listen = {"STATE_DIRECTORY": str(tmp_path)}, unix_listen(tmp_path)
    with HttpReceiver([Reply(status=503)] * 1000) as away, closed_port() as port:
        with RunningAgent(environment=otlp(away, OTEL_CONNECT_LISTEN="off") | state) as first:
            for _ in range(20):
                connect(port)
            away.await_requests(1)
        left = {name: balance_of(first, name)["queued"] for name in ("logs", "traces")}
        assert left["logs"] >= 20
    with HttpReceiver() as receiver:
        with RunningAgent(environment=otlp(receiver, OTEL_CONNECT_LISTEN=listen) | state) as second:
            await_until(lambda: len(of_process(receiver, SELF)) == 20)
            # One agent to a spool; the second is told which one, and what to do.
            other = subprocess.run(
                [COMMAND, "run"],
                check=False,
                capture_output=True,
                text=True,
                timeout=60,
                env=os.environ | otlp(receiver, OTEL_CONNECT_LISTEN="off") | state,
            )
            assert (other.returncode, other.stdout) == (2, "")
            assert str(tmp_path) in other.stderr
            ledger = Status(listen).document()["ledger"]
            assert {name: ledger[name]["recovered"] for name in left} == left
            assert all(account["difference"] == 0 for account in ledger.values())
            assert (
                f'attempts_recovered_total{{otel_connect_signal="logs"}} {left["logs"]}.0'
                in Status(listen).get("/metrics")[1]
            )
        assert {name: balance_of(second, name)["recovered"] for name in left} == left
        # Events of both runs have come, and none of them counts.
        events = agent_events(receiver)
        assert (events["started"], events["stopped"]) == (2, 2)


def test_its_log_is_json_when_asked_for() -> None:
    with RunningAgent("--output", "json", "--log-format", "json") as agent:
        pass
    documents = [json.loads(line) for line in agent.errors]
    assert any(document["message"].startswith("capturing every") for document in documents)
    ended = subprocess.run(
        [COMMAND, "run", "--log-format", "json", "--config", "/no/such\x1b[31mfile"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert json.loads(line)["level"] == "error"
    assert "\x1b" not in line


@pytest.mark.parametrize("day_ns", [86_400 * 10**9, -86_400 * 10**9], ids=["forward", "back"])
def test_times_are_right_after_the_clock_was_set_by_a_day(day_ns: int) -> None:
    """Setting the clock of this machine would disturb it, so what the agent takes for wall time is what is set."""
    set_by = [0]

    def wall_ns() -> int:
        return time.time_ns() + set_by[0]

    def sample() -> ClockOffsets:
        monotonic, boot = (wall_ns() - time.clock_gettime_ns(clock) for clock in CLOCKS)
        return ClockOffsets(monotonic, boot)

    def attempt(capture: KernelCapture, clock_set_meanwhile_by: int | None = None) -> ConnectEvent:
        """Make an attempt, and hold that it began within a second of then, by the clock as it is when it is read."""
        earliest = time.time_ns()
        connect(port)
        latest = time.time_ns()
        if clock_set_meanwhile_by is not None:
            set_by[0] = clock_set_meanwhile_by
        found: list[ConnectEvent] = []

        def ours() -> bool:
            found.extend(event for event in capture.drain().events if event.pid == SELF and event.peer_port == port)
            return bool(found)

        await_until(ours)
        assert earliest - 10**9 < found[0].start_unix_ns - set_by[0] < latest + 10**9
        return found[0]

    with closed_port() as port, KernelCapture(CaptureConfig(), 0, Clocks(sample, wall_ns)) as capture:
        first = attempt(capture)
        waiting_when_it_was_set = attempt(capture, clock_set_meanwhile_by=day_ns)
        last = attempt(capture)
    # A process has one creation time, whatever the clock says.
    assert len({one.process_start_unix_ns for one in (first, waiting_when_it_was_set, last)}) == 1
