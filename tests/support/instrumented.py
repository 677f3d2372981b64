"""``application.py`` as its operators start it: by ``opentelemetry-instrument``, configured by variables alone."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from otel_connect.encode.json_lines import json_line
from otel_connect.model import Request, Signal
from tests.support.otlp_json import data_points, log_records, spans
from tests.support.receiver import SUCCESS, Receiver, Reply

PROGRAM = Path(__file__).with_name("application.py")
INSTRUMENT = Path(sys.executable).with_name("opentelemetry-instrument")
_PATIENCE_S = 60.0


class Application:
    """A running application; leaving the context asks it to end and checks that it did so by itself, if not killed.

    ``exporter`` is selected for all three signals; ``variables`` are added to the environment, without the
    OTEL_ ones of the test's own.
    """

    def __init__(self, variables: Mapping[str, str], *, exporter: str = "otel_connect") -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        selected = {f"OTEL_{signal}_EXPORTER": exporter for signal in ("LOGS", "METRICS", "TRACES")}
        self.process = subprocess.Popen(
            [INSTRUMENT, sys.executable, PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=environment | selected | dict(variables),
        )
        self.errors: list[str] = []
        self._answers: queue.Queue[str] = queue.Queue()
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_answers, self._read_errors)]
        for reader in self._readers:
            reader.start()
        try:
            self._await("ready")
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.kill()
            error.add_note("the application said:\n" + "".join(self.errors[-40:]))
        elif self.process.returncode is None:
            code = self.end()
            assert code == 0, self.errors

    def tell(self, command: str) -> None:
        """Give a command, and wait until it is done."""
        self._write(command)
        self._await("done")

    def end(self) -> int:
        """Ask it to end, and give the exit code."""
        if self.process.poll() is None:
            self._write("end")
        return self._finish()

    def kill(self) -> None:
        """End it at once, by SIGKILL."""
        self.process.kill()
        self._finish()

    @property
    def warnings(self) -> list[str]:
        """The lines on standard error that are not about orders or the HTTP client."""
        return [line.strip() for line in self.errors if ":shop:" not in line and ":urllib3." not in line]

    def _write(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def _await(self, answer: str) -> None:
        try:
            got = self._answers.get(timeout=_PATIENCE_S)
        except queue.Empty:
            got = "nothing"
        if got != answer:
            raise AssertionError(f"the application answered {got}, not {answer}:\n{''.join(self.errors)}")

    def _finish(self) -> int:
        try:
            return self.process.wait(_PATIENCE_S)
        finally:
            # Its children, too: one that hangs would outlive the test, and hold the pipes open.
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            for reader in self._readers:
                reader.join()
            for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
                assert stream is not None
                stream.close()

    def _read_answers(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line.strip())
        self._answers.put("nothing more")

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)


def _is_success(reply: Reply) -> bool:
    return replace(reply, delay_s=0.0) == SUCCESS


class Arrived:
    """What a receiver has taken, as plain values."""

    def __init__(self, receiver: Receiver) -> None:
        taken = [request for request in receiver.requests if _is_success(request.reply)]
        lines = [(one.signal, json_line(Request(one.signal, one.body, len(one.ids)))) for one in taken]
        documents = {signal: [json.loads(line) for of, line in lines if of is signal] for signal in Signal}
        records = log_records(documents[Signal.LOGS])
        self.logs: list[dict[str, Any]] = [
            one for one in records if not one["scope"]["name"].startswith("otel_connect")
        ]
        """Without those about a backend that is away, which an application's log has as well."""
        self.spans: list[dict[str, Any]] = spans(documents[Signal.TRACES])
        self.points: list[dict[str, Any]] = data_points(documents[Signal.METRICS])

    @property
    def bodies(self) -> list[Any]:
        """The bodies of the log records, in the order of their times."""
        return [record["body"] for record in sorted(self.logs, key=lambda record: int(record["timeUnixNano"]))]

    @property
    def names(self) -> list[str]:
        """The names of the spans, sorted."""
        return sorted(span["name"] for span in self.spans)
