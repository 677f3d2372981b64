"""The agent's own log: text or JSON, one line a message, whatever the message holds and wherever it goes."""

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest

SAY = """
import logging, sys, threading, warnings
from otel_connect.serve.log import start_log
start_log(sys.argv[1])
logging.getLogger("otel_connect.export.sender").warning("logs: %s", "no\\x1b[31m\\nroom\\u202e\\udc80")
logging.getLogger("otel_connect.run").info("capturing")
logging.getLogger("urllib3.connectionpool").warning("Retrying")
logging.getLogger("urllib3.connectionpool").info("not heard")
warnings.warn("old", DeprecationWarning)
thread = threading.Thread(target=lambda: 1 // 0, name="export-logs")
thread.start()
thread.join()
class Bad:
    def __del__(self):
        raise KeyError("x")
Bad()
print("done")
"""


def say(form: str, shell: str = "") -> tuple[int, str, list[str]]:
    command: Sequence[str] = [sys.executable, "-c", SAY, form]
    if shell:
        command = ["sh", "-c", f'exec "$0" "$@" {shell}', *command]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout, ended.stderr.splitlines()


def test_lines_of_text() -> None:
    code, _, lines = say("text")
    assert code == 0
    assert lines[:3] == [
        r"otel-connect: logs: no\x1b[31m\x0aroom\u202e\udc80",
        "otel-connect: capturing",
        "otel-connect: urllib3.connectionpool: Retrying",
    ]
    assert lines[-2].startswith("otel-connect: export-logs ended by a fault: ZeroDivisionError(")
    assert lines[-2].endswith("(<string>:10); please report this")
    assert lines[-1] == "otel-connect: a fault was ignored: KeyError('x') (<string>:15); please report this"
    assert not any("Traceback" in line for line in lines)


def test_lines_of_json() -> None:
    code, _, lines = say("json")
    assert code == 0
    assert all(line.isascii() for line in lines)
    documents = [json.loads(line) for line in lines]
    assert all(document.keys() == {"time", "level", "logger", "message"} for document in documents)
    assert documents[0]["message"] == "logs: no\x1b[31m\nroom\u202e\udc80"
    assert [document["level"] for document in documents[:3]] == ["warning", "info", "warning"]
    assert documents[0]["time"].endswith("Z")


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-"])
def test_a_log_that_cannot_be_written_is_lost_and_nothing_else(form: str, where: str) -> None:
    assert say(form, where) == (0, "done\n", [])
