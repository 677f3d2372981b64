"""The image, built from the project's Dockerfile and run by Podman with the very line of its documentation."""

import json
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from otel_connect import __version__
from tests.support.agent import RunningAgent
from tests.support.network import Listener, closed_port
from tests.support.receiver import GrpcReceiver

pytestmark = pytest.mark.captures

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
DOCUMENTATION = PROJECT / "examples/docker/README.md"

PIDS = "--pid=host"
TRACEFS = "--volume=/sys/kernel/tracing:/sys/kernel/tracing:ro"
CAPABILITIES = ("--cap-add=BPF", "--cap-add=PERFMON")
PROFILE = f"--security-opt=seccomp={PROJECT / 'examples/docker/seccomp.json'}"

_numbers = count()


def documented_options() -> list[str]:
    """Return the options of the documented command, each as one word, without the container's name."""
    (line,) = re.findall(r"^docker run (.*?)\n```", DOCUMENTATION.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    words = shlex.split(line.replace("\\\n", " "))
    assert words.pop() == "otel-connect"
    options: list[str] = []
    for word in words:
        if word.startswith("--"):
            options.append(word)
        else:
            options[-1] += f"={word}"
    options.remove("--name=otel-connect")
    return [option.replace("seccomp=", f"seccomp={PROJECT}/") for option in options]


def without(options: Sequence[str], *left_out: str) -> list[str]:
    return [option for option in options if option not in left_out]


def engine(*arguments: str) -> list[str]:
    return [str(HERE / "engine.sh"), "podman", *arguments]


def podman(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(engine(*arguments), capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def image() -> str:
    built = subprocess.run([HERE / "build.sh"], stdout=subprocess.PIPE, text=True, check=True)
    return built.stdout.strip()


@pytest.fixture
def container() -> Iterator[list[str]]:
    """Give the beginning of a command that runs a container, which is gone at the end whatever happens."""
    name = f"otel-connect-test-{os.getpid()}-{next(_numbers)}"
    yield engine("run", "--pull=never", f"--name={name}")
    assert podman("rm", "--force", "--ignore", name).returncode == 0


@pytest.fixture
def options() -> list[str]:
    return documented_options()


def test_the_documented_options_are_those_that_are_left_out_below(options: list[str]) -> None:
    assert {PIDS, TRACEFS, PROFILE, *CAPABILITIES} < set(options)
    assert {"--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"} < set(options)


@pytest.mark.parametrize(
    ("left_out", "further"),
    [
        pytest.param([], [], id="as_documented"),
        pytest.param([], ["--user=65532", "--cap-add=DAC_READ_SEARCH"], id="other_user"),
        pytest.param([PIDS], [], id="own_pids"),
        pytest.param([], ["--cap-add=SYS_PTRACE"], id="as_composed"),
        pytest.param(
            ["--network=host", "--uts=host"],
            ["--network=none", "--cap-add=SYS_PTRACE", "--volume=/sys/kernel/btf:/sys/kernel/btf:ro"],
            id="as_in_kubernetes",
        ),
    ],
)
def test_it_sees_the_connects_of_the_host(
    image: str,
    container: list[str],
    options: list[str],
    left_out: list[str],
    further: list[str],
) -> None:
    command = [*container, *without(options, *left_out), *further, image, "run"]
    comm = Path("/proc/self/comm").read_text(encoding="ascii").strip()
    with (
        RunningAgent("--output", "json", command=command) as running,
        Listener() as listener,
        closed_port() as closed,
    ):
        for port in (listener.port, closed):
            with socket.socket() as client:
                client.connect_ex(("127.0.0.1", port))
        running.until(lambda: len(running.attempts(os.getpid())) >= 2)
        attempts = [record["attributes"] for record in running.attempts(os.getpid())]
        assert [
            (each["network.peer.port"], each["otel_connect.outcome"], each["otel_connect.process.comm"])
            for each in attempts
        ] == [(listener.port, "established", comm), (closed, "refused", comm)]
        # SIGTERM goes to podman, as from a supervisor, and it passes it on.
        assert running.stop() == 0
    assert not any("Traceback" in line for line in running.errors)


def test_it_sends_to_a_collector_of_the_host(image: str, container: list[str], options: list[str]) -> None:
    with GrpcReceiver() as receiver, Listener() as listener:
        variables = [
            f"--env=OTEL_EXPORTER_OTLP_ENDPOINT={receiver.endpoint}",
            "--env=OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
        ]
        with RunningAgent(command=[*container, *options, *variables, image, "run"]), socket.socket() as client:
            client.connect((listener.address, listener.port))
            receiver.await_requests(1)


def test_its_health_check_asks_the_running_agent(image: str, container: list[str], options: list[str]) -> None:
    name = container[-1].removeprefix("--name=")
    with RunningAgent(command=[*container, *options, image, "run", "--output", "json"]):
        checked = podman("healthcheck", "run", name)
        assert checked.returncode == 0, checked.stderr + checked.stdout
        asked = podman("exec", name, "otel-connect", "health")
        assert (asked.returncode, asked.stdout) == (0, "ok\n")
        elsewhere = podman("exec", "--env=OTEL_CONNECT_LISTEN=127.0.0.1:1", name, "otel-connect", "health")
        assert elsewhere.returncode == 1


@pytest.mark.parametrize(
    ("left_out", "exit_code", "words"),
    [
        # Podman's default profile: before 5.2 it refuses bpf(), since then perf_event_open().
        pytest.param([PROFILE], 77, "bpf and perf_event_open", id="profile"),
        pytest.param([TRACEFS], 78, "-v /sys/kernel/tracing:/sys/kernel/tracing:ro", id="tracefs"),
        pytest.param(CAPABILITIES, 77, "CAP_BPF and CAP_PERFMON missing", id="capabilities"),
        pytest.param(CAPABILITIES[:1], 77, "CAP_BPF missing", id="bpf"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    image: str, container: list[str], options: list[str], left_out: list[str], exit_code: int, words: str
) -> None:
    # Without the health check, about which Podman has lines of its own where there is no systemd.
    command = [*container, "--no-healthcheck", *without(options, *left_out), image]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (exit_code, ""), ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("otel-connect: ")
    assert words in line


def test_what_the_image_says_of_itself(image: str) -> None:
    (described,) = json.loads(podman("image", "inspect", image).stdout)
    configuration: dict[str, Any] = described["Config"]
    assert configuration["Entrypoint"] == ["otel-connect"]
    assert configuration["Cmd"] == ["run"]
    assert configuration["StopSignal"] == "SIGTERM"
    assert described["Healthcheck"]["Test"] == ["CMD", "otel-connect", "health"]
    assert configuration["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0 AND (MIT OR GPL-2.0-only)"


def test_its_size_and_what_most_of_it_is_are_as_documented(image: str, container: list[str]) -> None:
    script = "cat /usr/lib/x86_64-linux-gnu/lib{LLVM,clang-cpp,z3}.so.*[0-9] | wc --bytes"
    told = subprocess.run(
        [*container, "--entrypoint=bash", image, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    (described,) = json.loads(podman("image", "inspect", image).stdout)
    section = DOCUMENTATION.read_text(encoding="utf-8").split("## What is inside")[1]
    whole = re.search(r"^(\d+) MB, compressed", section, re.MULTILINE)
    parts = [int(row) for row in re.findall(r"^\| .+ \| (\d+) \|", section, re.MULTILINE)]
    assert whole is not None
    assert int(whole[1]) == sum(parts)
    assert described["Size"] / 1e6 == pytest.approx(sum(parts), rel=0.1)
    assert int(told.stdout) / 1e6 == pytest.approx(parts[0], rel=0.1)


def test_the_image_holds_nothing_that_only_builds(image: str, container: list[str], options: list[str]) -> None:
    script = (
        "otel-connect version; command -v pip pip3 cc gcc clang ld;"
        " ls -A /root /var/lib/apt/lists /var/cache/apt /src /opt/pip /etc/pip.conf;"
        " /opt/otel-connect/bin/python -c 'import hatchling'"
    )
    command = [*container, *options, "--entrypoint=sh", image, "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    version, *found = ended.stdout.split("\n")
    assert version.startswith(f"otel-connect {__version__} ")
    found = [line for line in found if line and not line.endswith(":")]
    assert found == [".bashrc", ".profile"]
    assert "No module named 'hatchling'" in ended.stderr


def test_the_bill_of_materials_names_what_is_inside(image: str, container: list[str]) -> None:
    listing = "dpkg-query -W -f '${Package} ${Version}\\n'; ls /opt/otel-connect/lib/python3*/site-packages"
    told = subprocess.run(
        [*container, "--entrypoint=sh", image, "-c", listing], capture_output=True, text=True, timeout=60, check=True
    )
    packages = {tuple(line.split()) for line in told.stdout.splitlines() if " " in line}
    folders = re.findall(r"^(.+)-([^-]+)\.dist-info$", told.stdout, re.MULTILINE)
    (name,) = (word.removeprefix("--name=") for word in container if word.startswith("--name="))
    with subprocess.Popen(engine("export", name), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as archive:
        bill = json.loads(subprocess.check_output([PROJECT / "tools/sbom.sh"], stdin=archive.stdout, timeout=240))
    named = [component["purl"] for component in bill["components"] if "purl" in component]
    listed = {re.fullmatch(r"pkg:(\w+)/(?:debian/)?(.+)@([^?]+)(.*)", unquote(purl)) for purl in named}
    found = {one.groups() for one in listed if one is not None}
    assert packages
    assert packages == {
        (name, version) for kind, name, version, what in found if kind == "deb" and "source" not in what
    }
    python = {(_normal(name), version) for kind, name, version, _ in found if kind == "pypi"}
    assert python == {(_normal(package), version) for package, version in folders}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
