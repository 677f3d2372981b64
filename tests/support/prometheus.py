"""A real Prometheus and a real Alertmanager on free loopback ports, with the configurations that ship.

Only the addresses are put in their place, and all times are made shorter by ``tools/scale_rules.py``.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import threading
import urllib.parse
import urllib.request
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.collector import DIRECT, await_until, free_ports
from tools.scale_rules import scaled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "alerts"
RULES = EXAMPLES / "otel-connect.rules.yml"
_UNPACK = ROOT / "tests" / "unpack.sh"
_START_STOP_SECONDS = 30.0

Labels = dict[str, str]


def as_grafana_sends(query: str, interval: str) -> str:
    """Return the query of a panel with everything chosen in all variables, and a window for its rates."""
    return re.sub(r'"\$\w+"', '".*"', query).replace("$__rate_interval", interval)


@functools.cache
def prometheus_programs() -> Path:
    """Return the folder of prometheus, promtool and prometheus-alertmanager, fetched on first use."""
    packages = ["prometheus", "prometheus-alertmanager"]
    fetched = subprocess.run([_UNPACK, "prometheus=only", *packages], stdout=subprocess.PIPE, text=True, check=True)
    return Path(fetched.stdout.strip()) / "usr" / "bin"


class Webhook:
    """A receiver of Alertmanager's messages, for the length of a ``with`` block."""

    def __init__(self) -> None:
        received: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                received.extend(message["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        self.received = received
        """Every alert of every message, in the order they came: ``status``, ``labels``, ``annotations``."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="webhook")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def statuses(self, labels: Mapping[str, str]) -> list[str]:
        """Return what was said of alerts that have these labels: ``firing``, ``resolved``."""
        return [alert["status"] for alert in self.received if labels.items() <= alert["labels"].items()]


class Monitoring:
    """Prometheus and Alertmanager with the files of ``examples/alerts``, so many times faster."""

    def __init__(self, directory: Path, *, page_url: str, webhook_url: str, factor: int) -> None:
        """Prepare both; ``page_url`` is the collector's page that Prometheus scrapes."""
        self._directory = directory
        prometheus, alertmanager = free_ports(2)
        self._prometheus = f"127.0.0.1:{prometheus}"
        self._alertmanager = f"127.0.0.1:{alertmanager}"
        page = urllib.parse.urlsplit(page_url).netloc
        replaced = {
            "127.0.0.1:8889": page,
            "127.0.0.1:9093": self._alertmanager,
            "http://127.0.0.1:5001/": webhook_url,
        }
        directory.mkdir()
        for shipped in EXAMPLES.glob("*.yml"):
            text = scaled(shipped.read_text(encoding="utf-8"), factor)
            for address, actual in replaced.items():
                text = text.replace(address, actual)
            (directory / shipped.name).write_text(text, encoding="utf-8")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(
                stack,
                "prometheus-alertmanager",
                f"--config.file={self._directory / 'alertmanager.yml'}",
                f"--storage.path={self._directory / 'alertmanager'}",
                f"--web.listen-address={self._alertmanager}",
                "--cluster.listen-address=",
                ready=f"http://{self._alertmanager}/-/ready",
            )
            self._start(
                stack,
                "prometheus",
                f"--config.file={self._directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._directory / 'tsdb'}",
                f"--web.listen-address={self._prometheus}",
                ready=f"http://{self._prometheus}/-/ready",
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: TracebackType | None) -> None:
        if error is not None:
            for log in sorted(self._directory.glob("*.log")):
                error.add_note(f"{log.name} ends with:\n{log.read_text(errors='backslashreplace')[-2000:]}")
        self._stack.close()

    def query(self, expression: str) -> list[tuple[Labels, float]]:
        """Return the labels and values of an instant vector, as of now."""
        return [(series["metric"], float(series["value"][1])) for series in self._result(expression)]

    def history(self, expression: str, times: range) -> list[tuple[Labels, dict[int, float]]]:
        """Return the labels of each series, and its values by Unix time, where it has one."""
        found = self._result(expression, "query_range", start=times[0], end=times[-1], step=times.step)
        return [(series["metric"], {int(time): float(value) for time, value in series["values"]}) for series in found]

    def alerts(self, state: str, since_unix_s: float = 0) -> list[Labels]:
        """Return the labels of every alert that was ``pending`` or ``firing`` at an evaluation since a moment."""
        found = self._result(f'ALERTS{{alertstate="{state}"}}[1h]')
        return [
            {name: value for name, value in series["metric"].items() if name not in {"__name__", "alertstate"}}
            for series in found
            if series["values"][-1][0] >= since_unix_s
        ]

    def _result(self, expression: str, kind: str = "query", **span: int) -> list[dict[str, Any]]:
        question = urllib.parse.urlencode({"query": expression, **span})
        with DIRECT.open(f"http://{self._prometheus}/api/v1/{kind}?{question}", timeout=10) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result

    def _start(self, stack: ExitStack, program: str, *arguments: str, ready: str) -> None:
        log = stack.enter_context((self._directory / f"{program}.log").open("wb"))
        folder = prometheus_programs()
        # Debian's Alertmanager looks for its templates in /usr/share, where nothing of it was installed.
        share = f'mount --bind {folder.parent / "share"} /usr/share && exec "$@"'
        command: Sequence[str] = ["unshare", "--mount", "sh", "-c", share, "sh", str(folder / program), *arguments]
        process = subprocess.Popen(command, cwd=self._directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(_end, process)

        def answers() -> bool:
            assert process.poll() is None, f"{program} ended with exit code {process.returncode}"
            try:
                with DIRECT.open(ready, timeout=1) as answer:
                    return bool(answer.status == 200)
            except OSError:  # nobody listens yet, or it is not ready (503)
                return False

        try:
            await_until(answers, _START_STOP_SECONDS)
        except BaseException as error:
            error.add_note(Path(log.name).read_text(errors="backslashreplace")[-2000:])
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_START_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
