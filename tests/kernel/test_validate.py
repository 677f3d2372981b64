"""``validate`` says what ``run`` would say until it captures: the same lines, the same exit code, and nothing stays."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.agent import COMMAND, RunningAgent
from tests.support.network import NetworkNamespace
from tests.support.receiver import HttpReceiver, make_certificates
from tests.support.status import unix_listen

OTLP = "OTEL_EXPORTER_OTLP_"


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    output: str
    errors: list[str]


def command(*arguments: str, environment: dict[str, str]) -> Ended:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ended = subprocess.run(
        [COMMAND, *arguments], check=False, capture_output=True, text=True, timeout=60, env=clean | environment
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr.splitlines())


class Refused(NamedTuple):
    """A file and variables, and how the lines begin that are said of them, all at once."""

    file: str
    environment: dict[str, str]
    says: list[str]


# FILE is the file, FOREIGN one that only a privilege could read, TAKEN an address in use.
REFUSED = {
    "no TOML": Refused("[export\n", {f"{OTLP}TIMEOUT": "soon"}, ["FILE: is not valid TOML", f"{OTLP}TIMEOUT: must be"]),
    "values": Refused(
        "[export]\nendpiont = 'x'\nspool_directory = 'spool'\nheaders = { 'a b' = 'x' }\n"
        "[capture]\ndrain_interval_ms = 0\n[serve]\nlisten = '9475'\n"
        "[enrich]\nmask_addresses = 'hash'\nkubelet_url = 'https://k:1'\nkubelet_certificate = '/no/such/file'\n",
        {f"{OTLP}LOGS_HEADERS": "api-key%3Dx", f"{OTLP}ENDPOINT": "http://h:4318/v1/logs"},
        [
            f"{OTLP}LOGS_HEADERS: header 1 has its = escaped",
            f"{OTLP}ENDPOINT: ends in /v1/logs",
            "FILE: capture.drain_interval_ms: must be 1 or more",
            'FILE: enrich.mask_addresses: "hash" needs a key',
            "FILE: enrich.kubelet_certificate: /no/such/file cannot be read (No such file or directory)",
            "FILE: export.endpiont: no such key; did you mean export.endpoint?",
            "FILE: export.headers: header 1 has a name that HTTP does not allow",
            "FILE: export.spool_directory: must be an absolute path",
            "FILE: serve.listen: must be HOST:PORT",
        ],
    ),
    "files": Refused(
        "[export]\nendpoint = 'https://h'\ncertificate = 'FILE'\n[export.metrics]\ncertificate = 'FOREIGN'\n"
        "[enrich]\nmask_addresses = 'hash'\nmask_key_file = 'FOREIGN'\n",
        {f"{OTLP}TRACES_CERTIFICATE": "/no/such/file", "OTEL_CONNECT_LISTEN": "TAKEN"},
        [
            f"{OTLP}TRACES_CERTIFICATE: /no/such/file: certificate cannot be read (No such file or directory)",
            "FILE: enrich.mask_key_file: FOREIGN cannot be read (Permission denied)",
            "FILE: export.certificate: FILE: no usable certificate",
            "FILE: export.metrics.certificate: FOREIGN: certificate cannot be read (Permission denied)",
            "OTEL_CONNECT_LISTEN: cannot listen at TAKEN (Address already in use)",
        ],
    ),
    "pairs": Refused(
        "[serve]\nlisten = 'unix:/no/such/folder/s'\n[enrich]\nmask_addresses = 'hash'\nmask_key_file = 'FILE.short'\n",
        {f"{OTLP}ENDPOINT": "https://h", f"{OTLP}CLIENT_KEY": "/k"},
        [
            f"{OTLP}CLIENT_KEY: needs its certificate; set {OTLP}CLIENT_CERTIFICATE",
            "FILE: enrich.mask_key_file: FILE.short holds 5 bytes",
            "FILE: serve.listen: cannot listen at unix:/no/such/folder/s (No such file or directory)",
        ],
    ),
    "another host's address": Refused(
        "",
        {"OTEL_CONNECT_LISTEN": "192.0.2.1:80"},
        ["OTEL_CONNECT_LISTEN: cannot listen at 192.0.2.1:80 (Cannot assign requested address)"],
    ),
}


@contextmanager
def placed(folder: Path, text: str, environment: dict[str, str]) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Put the names of what there is in place of its words: the file, one that only root may read, a port in use."""
    foreign = make_certificates(folder).authority
    foreign.chmod(0o600)
    os.chown(foreign, 65534, 65534)
    file = folder / "otel-connect.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        names = {"FILE": str(file), "FOREIGN": str(foreign), "TAKEN": f"127.0.0.1:{taken.getsockname()[1]}"}
        file.write_text(replaced(text, names))
        (folder / f"{file.name}.short").write_text("short")
        yield {name: replaced(value, names) for name, value in environment.items()}, names


def replaced(text: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(name, value)
    return text


@pytest.mark.parametrize("case", REFUSED)
def test_what_run_refuses_validate_refuses_with_the_same_lines(case: str, tmp_path: Path) -> None:
    text, variables, says = REFUSED[case]
    with placed(tmp_path, text, {"STATE_DIRECTORY": str(tmp_path / "state")} | variables) as (environment, names):
        runs, checked = (
            command(name, "--config", names["FILE"], environment=environment) for name in ("run", "validate")
        )
    assert checked == runs
    assert (runs.code, runs.output) == (2, "")
    expected = sorted(f"otel-connect: {replaced(line, names)}" for line in says)
    assert len(runs.errors) == len(expected)
    assert [line for line, start in zip(sorted(runs.errors), expected, strict=True) if not line.startswith(start)] == []


def test_flags_are_named_too(tmp_path: Path) -> None:
    environment = {"STATE_DIRECTORY": str(tmp_path), f"{OTLP}ENDPOINT": "ftp://x", f"{OTLP}TIMEOUT": "soon"}
    ended = command("run", "--endpoint", "http://h:x", "--protocol", "grpc", environment=environment)
    assert (ended.code, ended.errors) == (
        2,
        [
            f"otel-connect: {OTLP}TIMEOUT: must be a whole number of milliseconds, such as 10000, not 'soon'",
            "otel-connect: --endpoint: has a port or a bracketed address that cannot be read",
        ],
    )


def test_what_run_warns_about_validate_warns_about(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, and no directory")
    variables = {
        "STATE_DIRECTORY": str(tmp_path / "state"),
        f"{OTLP}METRICS_TEMPORALITY_PREFERENCE": "sideways",
        f"{OTLP}METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "pie",
        "OTEL_RESOURCE_ATTRIBUTES": "team=a,b,=c",
        f"{OTLP}HEADER": "a=b",
        f"{OTLP}HEADERS": "a=1,A=2",
        f"{OTLP}CERTIFICATE": "/no/such/file",
    }
    with ExitStack() as stack, HttpReceiver() as receiver:
        try:  # whoever else has the default port does as well
            stack.enter_context(socket.create_server(("127.0.0.1", 9475)))
        except OSError:
            variables["OTEL_CONNECT_LISTEN"] = "off"
        variables[f"{OTLP}ENDPOINT"] = receiver.endpoint
        variables[f"{OTLP}TRACES_ENDPOINT"] = f"{receiver.endpoint}/v1/logs"
        checked = command("validate", environment=variables)
        runs = command("run", "--log-format", "json", "--duration", "0.1", environment=variables)
    assert (checked.code, runs.code) == (0, 0)
    documents = [json.loads(line) for line in runs.errors]
    begun = next(index for index, one in enumerate(documents) if one["message"].startswith("capturing "))
    warnings = [one["message"] for one in documents[:begun] if one["level"] == "warning"]
    assert sorted(f"otel-connect: {warning}" for warning in warnings) == sorted(checked.errors)
    assert {warning.partition(":")[0] for warning in warnings} - {"no status server"} == {
        "spool",
        f"{OTLP}METRICS_TEMPORALITY_PREFERENCE",
        f"{OTLP}METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        "OTEL_RESOURCE_ATTRIBUTES",
        f"{OTLP}HEADER",
        f"{OTLP}HEADERS",
        f"{OTLP}CERTIFICATE",
        f"{OTLP}TRACES_ENDPOINT",
    }
    assert ("no status server" in str(warnings)) is ("OTEL_CONNECT_LISTEN" not in variables)


def test_nothing_stays_of_it(tmp_path: Path) -> None:
    listen = unix_listen(tmp_path)
    environment = {
        f"{OTLP}ENDPOINT": "http://127.0.0.1:1",
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "OTEL_CONNECT_LISTEN": listen,
    }
    before = sorted(tmp_path.iterdir())
    ended = command("validate", environment=environment)
    assert (ended.code, ended.errors) == (0, [])
    assert sorted(tmp_path.iterdir()) == before
    assert not Path(listen.removeprefix("unix:")).exists()


def test_beside_a_running_agent_only_that_is_a_warning(tmp_path: Path) -> None:
    """It is how a new configuration is checked before the agent reloads it."""
    listen = unix_listen(tmp_path)
    with HttpReceiver() as receiver:
        environment = {
            f"{OTLP}ENDPOINT": receiver.endpoint,
            "STATE_DIRECTORY": str(tmp_path / "state"),
            "OTEL_CONNECT_LISTEN": listen,
        }
        with RunningAgent(environment=environment):
            second = command("run", environment=environment)
            checked = command("validate", environment=environment)
    assert second.code == 2
    assert len(second.errors) == 2
    assert checked.code == 0
    suffix = "; the agent that has it can be given this configuration"
    assert all(line.endswith(suffix) for line in checked.errors)
    assert sorted(line.removesuffix(suffix) for line in checked.errors) == sorted(second.errors)


def test_beside_an_agent_at_the_default_address_it_says_what_run_would_say() -> None:
    """In a network of its own, where nobody else has that address."""
    with NetworkNamespace() as network:
        enter = network.command([])
        with RunningAgent(environment={"OTEL_CONNECT_LISTEN": ""}, command=(*enter, COMMAND, "run")) as first:
            pages = subprocess.run([*enter, COMMAND, "health"], check=False, capture_output=True, text=True)
            assert (pages.stdout, first.errors[:-1]) == ("ok\n", [])
            checked = subprocess.run([*enter, COMMAND, "validate"], check=False, capture_output=True, text=True)
            second = RunningAgent(environment={"OTEL_CONNECT_LISTEN": ""}, command=(*enter, COMMAND, "run"))
            with second:
                (said,) = (line for line in second.errors if "no status server" in line)
    assert "serve.listen: cannot listen at 127.0.0.1:9475 (Address already in use)" in said
    assert checked.returncode == 0
    assert checked.stderr.splitlines() == [f"{said}; the agent that has it can be given this configuration"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ["attempts: to the console"]),
        ("[export]\noutput = 'json'\n", ["logs, metrics, traces: to standard output, as OTLP JSON"]),
        (
            "[export]\noutput = 'json'\nendpoint = 'http://h'\n",
            ["logs, metrics, traces: to standard output, as OTLP JSON; export.output = 'json', so no endpoint is used"],
        ),
        (
            "[export]\noutput = 'console'\nendpoint = 'http://h'\n",
            ["attempts: to the console; export.output = 'console', so no endpoint is used"],
        ),
        (
            "[export]\noutput = 'otlp'\n",
            [f"{name}: http/protobuf to http://localhost:4318/v1/{name}" for name in ("logs", "metrics", "traces")],
        ),
        (
            "[export.logs]\nendpoint = 'http://h:1/v1/logs'\n[export.traces]\nprotocol = 'grpc'\n",
            [
                "logs: http/protobuf to http://h:1/v1/logs",
                "metrics: http/protobuf to http://localhost:4318/v1/metrics",
                "traces: grpc to http://localhost:4317",
            ],
        ),
    ],
)
def test_where_it_would_send(text: str, says: list[str], tmp_path: Path) -> None:
    file = tmp_path / "otel-connect.toml"
    file.write_text(f"[serve]\nlisten = 'off'\n{text}")
    state = {"STATE_DIRECTORY": str(tmp_path / "state")}
    ended = command("validate", "--config", str(file), environment=state)
    assert (ended.code, ended.errors) == (0, [])
    spool = [f"spool: {tmp_path}/state/spool"] * ("attempts" not in says[0] and len(says) > 1)
    names = "names of peers: from DNS and /etc/hosts"  # root has all that it takes
    assert ended.output.splitlines()[:-1] == [*says, *spool, "status pages: off", names]
    assert ended.output.splitlines()[-1] == "configuration is valid"


def test_it_says_that_nothing_waits_on_disk(tmp_path: Path) -> None:
    file = tmp_path / "otel-connect.toml"
    file.write_text("[export]\noutput = 'otlp'\nspool_directory = ''\n")
    ended = command("validate", "--config", str(file), environment={"OTEL_CONNECT_LISTEN": "off"})
    assert (ended.code, ended.errors) == (0, [])
    assert "spool: in memory only" in ended.output.splitlines()


@pytest.mark.parametrize(
    ("bounding", "config", "says"),
    [
        ("-net_raw,-sys_admin", "", "from DNS and /etc/hosts"),
        ("-net_raw,-sys_admin", "enrich.names = false\n", "off"),
    ],
)
def test_it_says_which_names_there_will_be(bounding: str, config: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "otel-connect.toml"
    file.write_text(f"serve.listen = 'off'\n{config}")
    ended = subprocess.run(
        ["setpriv", f"--bounding-set={bounding}", f"--inh-caps={bounding}", COMMAND, "validate", "--config", file],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"names of peers: {says}" in ended.stdout.splitlines()
