"""Programs of several runtimes that make connect attempts, and what each says about its own.

The clients are in ``clients/``. What must be compiled is compiled once, into the cache folder of the user.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

CLIENTS = Path(__file__).with_name("clients")
PYTHON = [os.path.realpath(sys.executable), "-I", "-S", str(CLIENTS / "client.py")]
"""How the Python client is started: isolated, so that it starts fast and alike everywhere."""

_COMPILE_SECONDS = 180.0
# curl: the server said nothing, or stopped in the middle. It was connected, and that is all we ask.
_CURL_TIMED_OUT = 28


class Report(NamedTuple):
    """One attempt as its own program saw it; ``None`` where the runtime cannot know."""

    pid: int
    runtime: str
    host: str
    port: int
    blocking: bool | None
    result: str
    """``ok``, ``error``, or ``abandoned``: the program gave up before there was an answer."""
    errno: int | None
    errno_name: str | None
    local_port: int | None
    seconds: float | None
    tid: int | None = None


class Runtime(NamedTuple):
    """A way to make attempts: ``argv(host, port, count, timeout_ms)`` is the program to run."""

    name: str
    executable_path: str
    """What ``/proc/<pid>/exe`` shows while the program runs."""
    argv: Callable[[str, int, int, int], list[str]]
    reports: Callable[[str, int], tuple[Report, ...]]
    """Read the program's stdout; the second argument is its pid."""


def available() -> list[Runtime]:
    """Return the runtimes of this machine; raises FileNotFoundError if one that must be there is not."""
    found = [
        _runtime("python", PYTHON),
        _runtime("perl", [_tool("perl"), str(CLIENTS / "client.pl")]),
        _runtime("go", [str(_compile(_go(), "client.go", _build_go) / "client-go")]),
        Runtime("curl", _tool("curl"), _curl_argv, _curl_reports),
    ]
    if node := shutil.which("node"):
        found.append(_runtime("node", [os.path.realpath(node), str(CLIENTS / "client.js")]))
    if shutil.which("java") and shutil.which("javac"):
        found.append(_runtime("java", java("Client")))
    return found


def java(client: str) -> list[str]:
    """Return the command that runs a client in Java; raises FileNotFoundError where there is none."""
    classes = _compile(_tool("javac"), f"{client}.java", _build_java)
    # One compiler and one collector thread less to start: the tests measure no Java.
    return [_tool("java"), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", str(classes), client]


def c_client(name: str) -> Path:
    """Return the program of a client in C; raises FileNotFoundError where there is no compiler."""
    return _compile(_tool("gcc"), f"{name}.c", _build_c) / name


def read_reports(stdout: str, _pid: int = 0) -> tuple[Report, ...]:
    """Read the JSON lines that the clients print."""
    return tuple(Report(**json.loads(line)) for line in stdout.splitlines())


def _runtime(name: str, command: list[str]) -> Runtime:
    def argv(host: str, port: int, count: int, timeout_ms: int) -> list[str]:
        return [*command, host, str(port), str(count), str(timeout_ms)]

    return Runtime(name, command[0], argv, read_reports)


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name} is needed for the tests")
    return os.path.realpath(path)


def _go() -> str:
    installed = _cache() / "go" / "bin" / "go"  # by tests/collector/build.sh, where there was none
    return os.path.realpath(shutil.which("go") or (installed if installed.exists() else _tool("go")))


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "otel-connect"


def _curl_argv(host: str, port: int, count: int, timeout_ms: int) -> list[str]:
    name = f"[{host}]" if ":" in host else host
    # "close" makes each transfer a connection of its own; proxies and dot files must not interfere.
    options = ["-q", "--silent", "--noproxy", "*", "--header", "Connection: close", "--max-time", "20"]
    if timeout_ms:
        options += ["--connect-timeout", str(timeout_ms / 1000)]
    return [_tool("curl"), *options, "--write-out", "%{json}\n", *[f"http://{name}:{port}/"] * count]


def _curl_reports(stdout: str, pid: int) -> tuple[Report, ...]:
    """Read curl's summaries, which know no errno and not whether the socket blocked."""
    reports = []
    for line in stdout.splitlines():
        said = json.loads(line)
        host, _, port = str(said["url"]).removeprefix("http://").rstrip("/").rpartition(":")
        connected = said["time_connect"] > 0
        given_up = said["exitcode"] == _CURL_TIMED_OUT
        report = Report(
            pid=pid,
            runtime="curl",
            host=host.strip("[]"),
            port=int(port),
            blocking=None,
            result="ok" if connected else "abandoned" if given_up else "error",
            errno=None,
            errno_name=None,
            local_port=said["local_port"] if connected else None,
            seconds=said["time_connect"] if connected else said["time_total"],
        )
        reports.append(report)
    return tuple(reports)


def _compile(compiler: str, source: str, build: Callable[[str, Path, Path], None]) -> Path:
    """Return the folder with what a source compiles to, from the cache when it is there."""
    code = b"".join(path.read_bytes() for path in (CLIENTS / source, *sorted(CLIENTS.glob("*.h"))))
    # The compiler's date stands for its version, which it would take a while to ask for.
    stamp = f"{compiler} {Path(compiler).stat().st_mtime_ns}".encode()
    cache = _cache()
    folder = cache / f"clients-{hashlib.sha256(code + stamp).hexdigest()[:16]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            made = Path(work, "made")
            made.mkdir()
            build(compiler, CLIENTS / source, made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.exists():  # another run was faster, or something is wrong
                    raise
    return folder


def _build_go(compiler: str, source: Path, target: Path) -> None:
    """Compile without cgo, modules or downloads; only the standard library is used."""
    plain = {"CGO_ENABLED": "0", "GO111MODULE": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local"}
    _build([compiler, "build", "-o", str(target / "client-go"), str(source)], plain)


def _build_c(compiler: str, source: Path, target: Path) -> None:
    strict = ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    _build([compiler, *strict, "-o", str(target / source.stem), str(source)], {})


def _build_java(compiler: str, source: Path, target: Path) -> None:
    _build([compiler, "-d", str(target), str(source)], {})


def _build(argv: list[str], environment: dict[str, str]) -> None:
    try:
        subprocess.run(
            argv,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=_COMPILE_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        error.add_note(f"{error.stderr}".strip())
        raise
