"""README.md, run as a newcomer would: its quick start, the questions to a running agent, its filters and its file."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_connect.config import build, file_layer
from otel_connect.export.endpoint import resolve
from otel_connect.model import Signal
from tests.deploy.test_quickstart import Shell
from tests.support.collector import collector_binary
from tests.support.ledger import assert_balanced, exit_ledgers
from tests.support.network import NetworkNamespace
from tests.support.receiver import make_certificates

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
ALONE = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
"""In a PID namespace, so that ``pidof`` finds this agent and no other."""


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].partition("\n## ")[0]


def commands(text: str) -> list[str]:
    """Return the lines that a person would type; the tests are root already."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines)
    return [re.sub(r"^\$ |\bsudo (--preserve-env )?|  +#.*$", "", line) for line in lines]


class Windows(NetworkNamespace):
    """A network in which every program is started in the PID namespace of one shell."""

    def command(self, argv: Any) -> list[str]:
        return super().command([*ALONE, *argv])


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "bin").mkdir()
    with Windows() as namespace:
        shell = Shell(namespace, tmp_path / "bin")
        try:
            yield shell
        finally:
            shell.close()


def in_background(shell: Shell, command: str, log: Path) -> None:
    """Start what runs until it is stopped, as in a window of its own, and wait until it captures."""
    shell.run(f"{{ {command}; }} >{log}.out 2>{log} &")
    shell.run(f"until grep -s capturing {log} || ! kill -0 $!; do sleep 0.1; done")


def stop(shell: Shell) -> None:
    shell.run("kill $(pidof -x otel-connect); while pidof -x otel-connect >/dev/null; do sleep 0.1; done")


def test_the_quick_start_and_the_questions_to_what_it_started(shell: Shell, tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    start, demo = commands(section("Quick start"))
    assert (start, demo) == ("make run", "make demo")
    in_background(shell, start, log)
    assert shell.run(demo)[-1].startswith("demo: "), log.read_text()
    (refused,) = re.findall(r"`(curl http://127.0.0.1:1/)` makes one that is refused", section("Quick start"))
    shell.run(refused)
    shell.run(f"until grep -q 'ECONNREFUSED.* 127.0.0.1:1$' {log}.out; do sleep 0.1; done")

    ask, reload = commands(section("Send it to a collector"))[-2:]
    said = json.loads("\n".join(shell.run(ask)))
    assert said["balance"]["seen"] >= said["balance"]["shown"] > 0
    assert said["balance"]["difference"] == 0
    assert said["ledger"] == {}
    for page in re.findall(r"/(?:metrics|livez|readyz)\b", PAGE.split("# also ")[1].splitlines()[0]):
        (status,) = shell.run(f"curl -s -o /dev/null -w '%{{http_code}}\\n' http://127.0.0.1:9475{page}")
        assert status == "200"
    assert shell.run(".venv/bin/otel-connect health") == ["ok"]

    shell.run(reload)
    shell.run(f"until grep -q 'configuration reloaded' {log}; do sleep 0.1; done")
    stop(shell)
    assert_balanced((tmp_path / "agent.log.out").read_text().splitlines(), log.read_text().splitlines())


def test_doctor_says_why_as_the_quick_start_promises(shell: Shell) -> None:
    (doctor,) = re.findall(r"`sudo (\S+ doctor)` says why", " ".join(section("Quick start").split()))
    said = shell.run(doctor)
    assert any(line.startswith("ok      probes compile, load and attach (") for line in said)


def test_it_sends_to_a_collector_by_flag_and_by_variables(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "bin" / "otelcol-contrib").symlink_to(collector_binary())
    collector, by_flag, variables, by_variables = commands(section("Send it to a collector"))[:4]
    received = tmp_path / "received.jsonl"
    shell.run(f"export COLLECTOR_FILE={received}; {collector} >{tmp_path}/collector.log 2>&1 &")
    shell.run("until curl -sf http://127.0.0.1:13133/ >/dev/null; do sleep 0.1; done")
    for number, (command, to) in enumerate(((by_flag, 4318), (f"{variables}; {by_variables}", 4317))):
        log = tmp_path / f"{number}.log"
        in_background(shell, command, log)
        assert f"to http://localhost:{to} (" in log.read_text()
        shell.run("curl -s http://127.0.0.1:1/")
        stop(shell)
        assert exit_ledgers(log.read_text().splitlines())["logs"].exported > 0
        shell.run(f"until [ $(grep -o '127.0.0.1:1 refused' {received} | wc -l) = {number + 1} ]; do sleep 0.1; done")


def test_each_filter_gets_what_its_words_say(shell: Shell, tmp_path: Path) -> None:
    failures, everything = commands(section("As JSON, for pipes and files"))
    for number, command in enumerate((failures, everything)):
        log = tmp_path / f"{number}.log"
        in_background(shell, command, log)
        shell.run("curl -s http://127.0.0.1:1/; curl -s http://127.0.0.1:1/")
        stop(shell)
    words = (tmp_path / "0.log.out").read_text().splitlines()
    refused = [
        line for line in words if re.fullmatch(r"curl\[\d+\] → 127\.0\.0\.1:1 refused after .* \(ECONNREFUSED\)", line)
    ]
    assert len(refused) == 2
    attempts = [json.loads(line) for line in (tmp_path / "1.log.out").read_text().splitlines()]
    assert all("otel_connect.outcome" in one for one in attempts), "events of the agent are no attempts"
    ours = [one for one in attempts if one.get("server.port") in {1, "1"}]
    assert len(ours) == 2
    assert all(one["otel_connect.outcome"] == "refused" for one in ours)
    assert all(one["process.executable.name"] == "curl" for one in ours)


def test_the_file_is_what_the_agent_takes(shell: Shell, tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    paths = make_certificates(tmp_path)
    files = {"ca.pem": paths.authority, "client.pem": paths.client, "client.key": paths.client_key}
    for name, path in files.items():
        assert f'"/etc/otel-connect/{name}"' in text
        text = text.replace(f"/etc/otel-connect/{name}", str(path))
    file = tmp_path / "otel-connect.toml"
    file.write_text(text)
    written = tomllib.loads(text)["export"]

    endpoints = resolve(build([file_layer(file)]).export)
    assert endpoints[Signal.LOGS].url == written["endpoint"] + "/v1/logs"
    assert endpoints[Signal.METRICS].url == written["endpoint"] + "/v1/metrics"
    assert endpoints[Signal.TRACES].url == written["traces"]["endpoint"]
    for endpoint in endpoints.values():
        assert endpoint.secure
        assert endpoint.headers == {"authorization": "Bearer TOKEN"}
        assert (endpoint.certificate, endpoint.client_certificate) == (files["ca.pem"], files["client.pem"])
        assert endpoint.client_key == files["client.key"]
    said = shell.run(f".venv/bin/otel-connect validate --config {file}")
    assert said[-1] == "configuration is valid", said
