"""The gate that is shut while a process forks, values of one process, and descriptors known by what they lead to."""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any, Self, cast

import pytest

from otel_connect.export import forks
from otel_connect.export.descriptors import OwnDescriptor, lock_bytes
from otel_connect.export.forks import Gate, PerProcess


class Visitor(threading.Thread):
    """A thread that goes inside, and stays there until it may leave."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(daemon=True)
        self._gate = gate
        self.inside, self.leave = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self._gate.passage():
            self.inside.set()
            assert self.leave.wait(30)


def test_a_fork_waits_for_who_is_inside_and_keeps_others_out() -> None:
    gate = Gate()
    first = Visitor(gate)
    assert first.inside.wait(30)
    threading.Timer(0.1, first.leave.set).start()
    gate.before_fork()
    assert first.leave.is_set()
    late = Visitor(gate)
    assert not late.inside.wait(0.1)
    gate.after_fork_in_parent()
    assert late.inside.wait(30)
    late.leave.set()


def test_a_fork_waits_no_longer_than_the_bound() -> None:
    gate = Gate()
    visitor = Visitor(gate)
    assert visitor.inside.wait(30)
    began = time.monotonic()
    gate.before_fork()
    assert forks.LONGEST_STALL_S <= time.monotonic() - began < forks.LONGEST_STALL_S + 5
    visitor.leave.set()
    gate.after_fork_in_parent()


def test_a_thread_forks_in_the_middle_of_its_own_passage_and_passes_in_the_middle_of_its_own_fork() -> None:
    gate = Gate()
    began = time.monotonic()
    with gate.passage():
        gate.before_fork()
        with gate.passage():
            pass
        gate.after_fork_in_parent()
    assert time.monotonic() - began < forks.LONGEST_STALL_S


def test_who_is_inside_goes_on_to_another_passage_while_a_fork_waits_for_him() -> None:
    gate = Gate()
    inside, waiting = threading.Event(), threading.Event()
    waited: list[float] = []

    def visit() -> None:
        with gate.passage():
            inside.set()
            assert waiting.wait(30)
            time.sleep(0.1)  # the fork has shut the gate by then
            began = time.monotonic()
            with gate.passage():
                waited.append(time.monotonic() - began)

    visitor = threading.Thread(target=visit)
    visitor.start()
    assert inside.wait(30)
    waiting.set()
    began = time.monotonic()
    gate.before_fork()
    assert waited
    assert max(waited[0], time.monotonic() - began) < forks.LONGEST_STALL_S / 2
    gate.after_fork_in_parent()
    visitor.join(30)


def test_two_threads_fork_at_once_and_others_stay_out_until_both_have() -> None:
    gate = Gate()
    gate.before_fork()
    shut, end = threading.Event(), threading.Event()

    def fork() -> None:
        gate.before_fork()
        shut.set()
        end.wait(30)  # another thread would have its number

    second = threading.Thread(target=fork)
    second.start()
    assert shut.wait(30)
    gate.after_fork_in_parent()
    visitor = Visitor(gate)
    assert not visitor.inside.wait(0.1)
    assert visitor.inside.wait(forks.LONGEST_STALL_S + 5)  # the other one never says that it is over
    visitor.leave.set()
    late = Visitor(gate)
    assert late.inside.wait(forks.LONGEST_STALL_S / 2)
    late.leave.set()
    end.set()
    second.join(30)


def in_child(check: object) -> None:
    """Assert in a child made by fork."""
    assert callable(check)
    if (child := os.fork()) == 0:
        code = 1
        try:
            code = 0 if check() else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_each_process_has_a_value_of_its_own_and_leaves_its_parents_once() -> None:
    left: list[str] = []
    value = PerProcess("a", lambda parents: f"{parents}+", left.append)
    assert value.get() == value.get() == "a"
    in_child(lambda: (value.get(), value.get(), left) == ("a+", "a+", ["a"]))

    def grandchild() -> bool:
        in_child(lambda: (value.get(), left) == ("a+", ["a"]))  # this process never asked
        assert value.get() == "a+"
        in_child(lambda: (value.get(), left) == ("a++", ["a", "a+"]))
        return True

    in_child(grandchild)
    assert (value.get(), left) == ("a", [])


def test_a_child_does_not_wait_at_a_gate_that_a_thread_of_its_parent_had_entered() -> None:
    gate = Gate()
    visitor = Visitor(gate)
    assert visitor.inside.wait(30)

    def passes() -> bool:
        began = time.monotonic()
        with gate.passage():
            gate.before_fork()
            gate.after_fork_in_parent()
        return time.monotonic() - began < forks.LONGEST_STALL_S and gate.safe

    in_child(passes)
    visitor.leave.set()


def test_a_number_that_leads_to_another_file_is_not_ours_any_more(tmp_path: Path) -> None:
    ours = os.open(tmp_path / "ours", os.O_RDWR | os.O_CREAT)
    descriptor = OwnDescriptor(ours)
    assert descriptor.number == ours
    others = os.open(tmp_path / "others", os.O_RDWR | os.O_CREAT)
    os.dup2(others, ours)
    assert not descriptor.ours
    with pytest.raises(OSError, match="Bad file descriptor"):
        _ = descriptor.number
    descriptor.close()
    assert os.path.sameopenfile(ours, others)  # still open
    os.close(ours)
    os.close(others)


def test_a_child_lets_go_of_a_lock_and_its_parent_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    lock = lock_bytes(path, 0, 1)
    with path.open("rb"):
        pass  # to close it drops no lock
    with pytest.raises(BlockingIOError):
        lock_bytes(path, 0, 1)

    def let_go() -> bool:
        forks.GATE.after_fork_in_child()
        return not lock.ours

    in_child(let_go)
    with pytest.raises(BlockingIOError):
        lock_bytes(path, 0, 1)
    lock.close()
    lock_bytes(path, 0, 1).close()


class ForkAtEveryLine:
    """Makes a child before each line of a function, as another thread may do at any moment."""

    def __init__(self, function: Callable[..., object]) -> None:
        self._code = cast(FunctionType, function).__code__
        self.children: list[int] = []
        self._living, self._end = os.pipe()

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def end(self) -> None:
        """Let the children end, which live until then."""
        os.close(self._end)
        for child in self.children:
            assert os.waitpid(child, 0)[1] == 0
        os.close(self._living)

    def _call(self, frame: FrameType, event: str, _: object) -> Any:
        return self._line if event == "call" and frame.f_code is self._code else None

    def _line(self, _frame: FrameType, event: str, _: object) -> Any:
        if event in {"line", "return"}:
            ready, answer = os.pipe()
            if (child := os.fork()) == 0:
                sys.settrace(None)
                forks.GATE.after_fork_in_child()
                os.close(self._end)
                os.write(answer, b"1")
                os.read(self._living, 1)
                os._exit(0)
            self.children.append(child)
            os.read(ready, 1)
            os.close(ready)
            os.close(answer)
        return self._line


def test_a_child_made_at_any_moment_of_closing_has_no_copy(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    lock = lock_bytes(path, 0, 1)
    with ForkAtEveryLine(OwnDescriptor.close) as during:
        lock.close()
    assert len(during.children) > 2
    try:
        lock_bytes(path, 0, 1).close()
    finally:
        during.end()
