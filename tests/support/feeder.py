"""A program that puts numbered records, and writes down what was committed; made to be killed at any moment.

    python -m tests.support.feeder '{"export": {…}, "run": 3, "committed": "…", "per_put": 20, "puts_per_second": 50}'

The ids are ``<run>-<number>``. A line is written to the file once ``put`` has returned for its record, so the
file never knows more than the spool. At SIGTERM it flushes and prints its account of the log records.
"""

import json
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Self

from otel_connect.config import ExportConfig
from otel_connect.export.exporter import OtlpExporter
from otel_connect.model import Signal
from tests.support.delivery import logs

RUN_HEADER = "x-run"
_FLUSH_S = 120.0


class Order(NamedTuple):
    """What a feeder is to do."""

    export: dict[str, Any]
    """The export section of the configuration."""
    run: int
    """Begins the ids, and is sent with each request in the header RUN_HEADER."""
    committed: str
    """The file to append to."""
    per_put: int = 20
    puts_per_second: float = 50.0
    """Nothing is put if it is 0: the feeder only sends what others have left."""


class Feeder:
    """A feeder process from the moment its first records are committed."""

    def __init__(self, order: Order) -> None:
        argv = [sys.executable, "-m", "tests.support.feeder", json.dumps(order._asdict())]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._output = self._process.stdout
        assert self._output.readline() == "ready\n"

    def kill(self) -> None:
        """End it at once (SIGKILL); it must have been alive until then."""
        assert self._process.poll() is None
        self._process.kill()
        self._process.wait()

    def finish(self) -> dict[str, Any]:
        """Let it flush, and return its account: accepted, recovered, exported, queued, dropped, difference."""
        self._process.send_signal(signal.SIGTERM)
        account: dict[str, Any] = json.loads(self._output.read())
        assert self._process.wait(30) == 0
        assert account["difference"] == 0, account
        return account

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()


def committed_ids(file: Path) -> list[str]:
    """Read what the feeders have committed; a line that a kill cut short does not count."""
    text = file.read_text(encoding="ascii")
    return text[: text.rfind("\n") + 1].split()


def main() -> None:
    order = Order(**json.loads(sys.argv[1]))
    stopped: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.append(number)

    signal.signal(signal.SIGTERM, stop)
    headers = {RUN_HEADER: str(order.run)}
    exporter = OtlpExporter(ExportConfig.model_validate({**order.export, "headers": headers}))
    with Path(order.committed).open("ab", buffering=0) as committed:
        began = time.monotonic()
        for turn in count():
            if stopped:
                break
            if order.puts_per_second:
                ids = [f"{order.run}-{turn * order.per_put + one}" for one in range(order.per_put)]
                exporter.put(logs(*ids, padding=300))
                committed.write("".join(f"{one}\n" for one in ids).encode())
            if turn == 0:
                print("ready", flush=True)
            due = began + (turn + 1) / order.puts_per_second if order.puts_per_second else time.monotonic() + 0.05
            time.sleep(max(due - time.monotonic(), 0))
    exporter.close(_FLUSH_S)
    account = exporter.accounts()[Signal.LOGS]
    print(json.dumps({**account._asdict(), "dropped": dict(account.dropped), "difference": account.difference}))


if __name__ == "__main__":
    main()
