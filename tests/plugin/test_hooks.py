"""The hooks around a fork run to their end, and what a signal handler raises meanwhile reaches the application."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, threading, time
from otel_connect.export.forks import GATE
import otel_connect.plugin.process

kind, number = sys.argv[1:]
number = getattr(signal, number)

class Halt(Exception):
    def __init__(self, code, reason):
        super().__init__(code, reason)
        self.code, self.reason = code, reason

def handle(*_):
    raise {"exit": SystemExit(7), "halt": Halt(7, "asked to"), "timeout": TimeoutError(7, "took too long")}[kind]

if kind != "interrupt":
    signal.signal(number, handle)
inside, leave = threading.Event(), threading.Event()

def visit():
    with GATE.passage():
        inside.set()
        leave.wait(1)  # the hook waits for this

visitor = threading.Thread(target=visit)
visitor.start()
inside.wait()
threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
parent, began = os.getpid(), time.monotonic()
try:
    if os.fork() == 0:
        print("child goes on", flush=True)
        os._exit(0)
    while True:
        time.sleep(0.01)
except BaseException as error:
    if os.getpid() != parent:
        os._exit(1)
    raised = error
assert visitor.is_alive() is False, "the fork did not wait for who was inside"
os.wait()
print(repr(raised), getattr(raised, "code", None), flush=True)
began = time.monotonic()
thread = threading.Thread(target=lambda: GATE.passage().__enter__())
thread.start()
thread.join()
assert time.monotonic() - began < 1, "the gate stayed shut"
if (child := os.fork()) == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0  # and nothing is raised again
print("goes on", flush=True)
"""


@pytest.mark.parametrize(
    ("kind", "number", "raised"),
    [
        ("exit", "SIGTERM", "SystemExit(7) 7"),
        ("interrupt", "SIGINT", "KeyboardInterrupt() None"),
        ("timeout", "SIGALRM", "TimeoutError(7, 'took too long') None"),
        ("halt", "SIGHUP", "Halt(7, 'asked to') 7"),
    ],
)
def test_what_a_signal_handler_raises_while_a_fork_waits_is_raised_once_it_is_over(
    kind: str, number: str, raised: str
) -> None:
    command = [sys.executable, "-c", PROGRAM, kind, number]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.stdout.splitlines(), done.stderr) == (["child goes on", raised, "goes on"], "")


EXITING = """
import os, signal, sys, threading
from otel_connect.export.forks import GATE
import otel_connect.plugin.process

def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    inside = threading.Event()

    def visit():
        with GATE.passage():
            inside.set()
            threading.Event().wait(1)

    threading.Thread(target=visit).start()
    inside.wait()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    if os.fork() == 0:
        os._exit(0)
    threading.Event().wait(20)

main()
"""


def test_a_program_ends_with_the_code_of_its_handler() -> None:
    done = subprocess.run([sys.executable, "-c", EXITING], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (7, "")


STUCK = """
import os, threading, time
from otel_connect.export.answer import Action, Answer
from otel_connect.export.forks import GATE
from otel_connect.plugin import process

calls, over = threading.Semaphore(0), threading.Event()

class Stuck:
    def send(self, body):
        calls.release()
        over.wait(30)
        return Answer(Action.DELIVERED)

    def close(self):
        pass  # and the call does not come back

transports = [process._forks.add(Stuck) for _ in range(3)]
threads = [threading.Thread(target=transport.send, args=(b"",)) for transport in transports]
waits = []

def visit():
    while not over.is_set():
        began = time.monotonic()
        with GATE.passage():
            waits.append(time.monotonic() - began)
        time.sleep(0.001)

threads.append(threading.Thread(target=visit))
for thread in threads:
    thread.start()
for _ in transports:
    calls.acquire()
began = time.monotonic()
if (child := os.fork()) == 0:
    os._exit(0)
took = time.monotonic() - began
over.set()
for thread in threads:
    thread.join()
assert os.waitpid(child, 0)[1] == 0
print(took, max(waits))
"""


def test_calls_that_do_not_come_back_hold_a_fork_up_once_and_nobody_else() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, check=False, timeout=30)
    assert done.stderr == ""
    fork_s, longest_passage_s = map(float, done.stdout.split())
    assert 2 <= fork_s < 4
    assert longest_passage_s < 1
