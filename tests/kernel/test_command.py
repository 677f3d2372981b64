"""The command as a user meets it: usage, configuration, pipes and signals."""

import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from otel_connect import __version__
from otel_connect.cli import commands
from tests.support.agent import COMMAND, RunningAgent


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ended = subprocess.run(
        [COMMAND, *arguments], check=False, capture_output=True, text=True, timeout=60, env=clean | environment
    )
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "--bogus"], "--bogus: no such option; see otel-connect run --help"),
        (["run", "--endpiont", "x"], "--endpiont: no such option; did you mean --endpoint?"),
        (["run", "--output", "xml"], "--output: must be 'console', 'json' or 'otlp', not 'xml'"),
        (["run", "--duration", "x"], "--duration: must be a number of seconds, more than 0, not 'x'"),
        (["run", "--duration", "0"], "--duration: must be a number of seconds, more than 0, not '0'"),
        (["run", "--duration", "-1"], "--duration: must be a number of seconds, more than 0, not '-1'"),
        (["run", "--duration", "nan"], "--duration: must be a number of seconds, more than 0, not 'nan'"),
        (["run", "--duration", "inf"], "--duration: must be a number of seconds, more than 0, not 'inf'"),
        (["run", "--duration"], "--duration: needs a value"),
        (["run", "--log-format=xml"], "--log-format: must be 'text' or 'json', not 'xml'"),
        (["--version=3"], "--version: takes no value"),
        (["validate", "x"], "(x); see otel-connect validate --help"),
        (["run", "--config", "/no/such/file"], "/no/such/file: cannot be read"),
        (["run", "--endpoint", "ftp://collector"], "ftp"),
        (["run", "--endpoint", "http://"], "host"),
        (["run", "--protocol", "smoke"], "--protocol: must be 'grpc' or 'http/protobuf', not 'smoke'"),
        (["march"], "march: no such command; see otel-connect --help"),
        (["rn"], "rn: no such command; did you mean run?"),
        (["valdiate"], "valdiate: no such command; did you mean validate?"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(arguments: list[str], named: str) -> None:
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    (line,) = errors.splitlines()
    assert named in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[capture]\nring_byte = 4096\n", "capture.ring_byte: no such key; did you mean capture.ring_bytes?"),
        ("[capture]\nring_bytes = 5000\n", "must be a power of two, for example 8192"),
        ("[capture]\ndrain_interval_ms = 'fast'\n", "capture.drain_interval_ms"),
        ("[capture\n", "is not valid TOML"),
        ("[export]\noutput = 'fax'\n", "export.output"),
        ("export = 3\n", "export"),
    ],
)
def test_a_wrong_file_is_named_with_the_key(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "otel-connect.toml"
    file.write_text(content)
    code, _, errors = run("validate", "--config", str(file))
    assert code == 2
    assert str(file) in errors
    assert said in errors


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "otel-connect.toml"
    file.write_text("[capture]\nring_bytes = 5000\nmax_in_progress = 0\n")
    code, _, errors = run(
        "validate", "--config", str(file), OTEL_EXPORTER_OTLP_TIMEOUT="soon", OTEL_EXPORTER_OTLP_ENDPOINT="http://"
    )
    assert code == 2
    named = ("ring_bytes", "max_in_progress", "OTEL_EXPORTER_OTLP_TIMEOUT")
    assert all(any(name in line for line in errors.splitlines()) for name in named)


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "otel-connect.toml"
    file.write_text("[export]\nheaders = {authorization = ['hunter2']}\n")
    for arguments, environment in (
        (("validate", "--config", str(file)), {}),
        (("validate",), {"OTEL_EXPORTER_OTLP_HEADERS": "authorization hunter2"}),
        (("validate",), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:hunter2@localhost:4318"}),
    ):
        code, output, errors = run(*arguments, **environment)
        assert code == 2
        assert "hunter2" not in output + errors


def test_validate_says_where_telemetry_goes() -> None:
    code, output, _ = run("validate", OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318/base/")
    assert code == 0
    assert "logs: http/protobuf to http://collector:4318/base/v1/logs" in output


def test_validate_reads_the_certificates() -> None:
    code, output, errors = run(
        "validate",
        OTEL_EXPORTER_OTLP_ENDPOINT="https://collector:4318",
        OTEL_EXPORTER_OTLP_CERTIFICATE="/no/such/file",
    )
    assert (code, output) == (2, "")
    assert errors == (
        "otel-connect: OTEL_EXPORTER_OTLP_CERTIFICATE: /no/such/file: certificate cannot be read "
        "(No such file or directory); name a readable file\n"
    )


@pytest.mark.parametrize("command", ["run", "health", "validate"])
def test_a_host_to_listen_at_that_is_no_name(command: str) -> None:
    code, _, errors = run(command, OTEL_CONNECT_LISTEN="a..b:80")
    assert code == 2
    assert errors.startswith("otel-connect: OTEL_CONNECT_LISTEN: must have a host")


def test_a_character_that_the_locale_lacks_does_not_end_it() -> None:
    with (
        RunningAgent(environment={"PYTHONIOENCODING": "ascii"}) as agent,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        port = str(server.getsockname()[1])
        agent.until(lambda: any(port in line for line in agent.output))


def test_it_starts_in_a_directory_that_is_gone(tmp_path: Path) -> None:
    script = 'cd "$0" && rmdir "$0" && exec "$@"'
    (tmp_path / "gone").mkdir()
    with RunningAgent(command=("bash", "-c", script, tmp_path / "gone", COMMAND, "run")):
        pass


@pytest.mark.parametrize("arguments", [["version"], ["--version"], ["-V"]])
def test_version(arguments: list[str]) -> None:
    code, output, errors = run(*arguments)
    assert (code, errors) == (0, "")
    assert output == f"otel-connect {__version__} (Python {platform.python_version()}, Linux {platform.release()})\n"


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], ["-h"], *([name, option] for name in commands.commands for option in ("--help", "-h"))],
)
def test_help_is_a_page_on_standard_output(arguments: list[str]) -> None:
    code, output, errors = run(*arguments, COLUMNS="80")
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    usage = ["Usage: otel-connect", *arguments[:-1]]
    assert lines[0].startswith(" ".join(usage))
    assert len(lines) > 5, "not crushed into one line"
    assert max(map(len, lines)) <= 80
    assert "..." not in output, "nothing is cut off"


def test_help_names_every_command() -> None:
    _, output, _ = run()
    assert set(re.findall(r"^  ([a-z]+)  ", output, re.MULTILINE)) == {"run", "validate", "doctor", "health", "version"}


def test_a_wrong_option_leads_to_the_help_of_its_command() -> None:
    assert run("march")[2].endswith("; see otel-connect --help\n")
    assert run("run", "--bogus")[2].endswith("; see otel-connect run --help\n")


JSON_FILE = "[log]\nformat = 'json'\n[export]\nendpoint = 'ftp://x'\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "code"),
    [
        (["run"], {"OTEL_CONNECT_LOG_FORMAT": "json", "OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://x"}, 2),
        (["run", "--bogus"], {"OTEL_CONNECT_LOG_FORMAT": "JSON"}, 2),
        (["rn"], {"OTEL_CONNECT_LOG_FORMAT": "json"}, 2),
        (["run", "--config", "FILE"], {}, 2),
        (["validate", "--config", "FILE"], {}, 2),
        (["health", "--config", "FILE"], {}, 2),
        (["run", "--config", "FILE", "--log-format", "json"], {"OTEL_CONNECT_LOG_FORMAT": "text"}, 2),
        (["run", "--duration", "x", "--log-format", "json"], {}, 2),
        (["health"], {"OTEL_CONNECT_LOG_FORMAT": "json", "OTEL_CONNECT_LISTEN": "unix:/no/such/socket"}, 1),
        # A form that does not exist is no reason for another one than was asked for elsewhere.
        (["run", "--config", "FILE"], {"OTEL_CONNECT_LOG_FORMAT": "xml"}, 2),
    ],
)
def test_the_first_line_has_the_form_that_was_asked_for(
    arguments: list[str], environment: dict[str, str], code: int, tmp_path: Path
) -> None:
    file = tmp_path / "otel-connect.toml"
    file.write_text(JSON_FILE)
    ended, output, errors = run(*(str(file) if one == "FILE" else one for one in arguments), **environment)
    assert (ended, output) == (code, "")
    assert errors
    assert {json.loads(line)["level"] for line in errors.splitlines()} == {"error"}


def test_a_flag_wins_over_the_form_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "otel-connect.toml"
    file.write_text(JSON_FILE)
    _, _, errors = run("run", "--config", str(file), "--log-format", "text")
    assert errors.startswith(f"otel-connect: {file}: export.endpoint: ")


def test_a_reader_that_goes_away_ends_the_agent_quietly() -> None:
    script = f"{COMMAND} run --output json --duration 30 | head -c 0; exit ${{PIPESTATUS[0]}}"
    with RunningAgent("--output", "json") as watcher:
        environment = os.environ | {"OTEL_CONNECT_LISTEN": "off"}  # the default address may be another agent's
        agent = subprocess.Popen(["bash", "-c", script], stderr=subprocess.PIPE, text=True, env=environment)
        assert agent.stderr is not None
        assert "capturing" in agent.stderr.readline()
        # any attempt makes it write
        while agent.poll() is None:
            subprocess.run(["curl", "--silent", "--max-time", "1", "http://127.0.0.1:1/"], check=False)
        errors = agent.stderr.read()
        agent.stderr.close()
        assert "Traceback" not in errors
        assert "BrokenPipe" not in errors
        assert agent.returncode == 0
        watcher.until(lambda: bool(watcher.output))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_summary(number: signal.Signals) -> None:
    with RunningAgent() as agent:
        agent.process.send_signal(number)
        assert agent.process.wait(30) == 0
        agent.until(lambda: any(line.startswith("seen ") for line in agent.output))


def test_json_lines_are_otlp() -> None:
    with RunningAgent("--output", "json") as agent:
        client = subprocess.Popen(["curl", "--silent", "--max-time", "1", "http://127.0.0.1:1/"])
        client.wait()
        agent.until(lambda: len(agent.attempts(client.pid)) == 1)
    kinds = {next(iter(json.loads(line))) for line in agent.output}
    assert kinds == {"resourceLogs", "resourceSpans", "resourceMetrics"}


@pytest.mark.parametrize(("requested", "reached"), [("0.0.0.0", "127.0.0.1"), ("::", "::1")])
def test_the_unspecified_address_is_kept_as_what_was_requested(requested: str, reached: str) -> None:
    family = socket.AF_INET6 if ":" in reached else socket.AF_INET
    with RunningAgent("--output", "json") as agent, socket.create_server((reached, 0), family=family) as server:
        port = server.getsockname()[1]
        argv = [sys.executable, "-c", f"import socket; socket.socket({int(family)}).connect(({requested!r}, {port}))"]
        client = subprocess.Popen(argv)
        assert client.wait(30) == 0
        agent.until(lambda: len(agent.attempts(client.pid)) == 1)
        (attempt,) = agent.attempts(client.pid)
    assert attempt["attributes"]["network.peer.address"] == reached
    assert attempt["attributes"]["otel_connect.requested.address"] == requested
    assert attempt["attributes"]["otel_connect.requested.port"] == port
