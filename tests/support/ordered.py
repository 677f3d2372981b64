"""A program that takes orders on its standard input, a line each, and answers every one with the line ``done``."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

PROJECT = Path(__file__).resolve().parents[2]


class Ordered:
    """Such a program, started in the project's directory; with the test's own environment or another.

    Leaving the context ends its input, and checks that it ends by itself, in order.
    """

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
            env=environment,
        )

    @property
    def pid(self) -> int:
        """Its pid."""
        return self._process.pid

    def order(self, order: str) -> None:
        """Give an order, and wait until it is carried out."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=30)
        assert kind is not None or self._process.returncode == 0
