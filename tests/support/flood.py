"""Programs that make more attempts than anyone wants recorded, and say what became of them (``flood.c``)."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from otel_connect.model import Outcome
from tests.support.network import NetworkNamespace

_SOURCE = Path(__file__).with_name("flood.c")
_OUTCOMES = (Outcome.ESTABLISHED, Outcome.REFUSED, Outcome.LOCAL_ERROR)


class Flood:
    """One program at work; leaving the context kills it if it is not over."""

    def __init__(self, command: list[str], cgroup: Path | None) -> None:
        if cgroup is not None:  # the shell moves itself, then becomes the program: it never runs elsewhere
            command = ["sh", "-c", f'echo $$ > "{cgroup}/cgroup.procs" && exec "$@"', "sh", *command]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    @property
    def running(self) -> bool:
        """Whether it still makes attempts."""
        return self.process.poll() is None

    def report(self) -> Mapping[Outcome, int]:
        """Wait for its end, and return how many attempts ended how; those that did not occur are left out."""
        output, _ = self.process.communicate(timeout=600)
        assert self.process.returncode == 0
        counts = map(int, output.split())
        return {outcome: number for outcome, number in zip(_OUTCOMES, counts, strict=True) if number}


class Floods:
    """The program under any name, compiled once; use as a context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._directory = Path(self._stack.enter_context(TemporaryDirectory()))
        program = self._directory / "flood"
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, _SOURCE], check=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def start(
        self,
        mode: str,
        count: int = 0,
        *,
        name: str = "flood",
        rate: int | None = None,
        cgroup: Path | None = None,
        namespace: NetworkNamespace | None = None,
    ) -> Flood:
        """Start it under a name: so many attempts (0: until it is told to end), by ``rate`` a second, somewhere."""
        program = self._directory / name
        if not program.exists():
            os.link(self._directory / "flood", program)
        command = [str(program), mode, str(count), *([] if rate is None else [str(rate)])]
        return self._stack.enter_context(Flood(command if namespace is None else namespace.command(command), cgroup))


@contextmanager
def other_cgroup() -> Iterator[Path | None]:
    """Make a cgroup of version 2 for the length of a block; ``None`` where that is not mounted."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    root = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    if root is None:
        yield None
        return
    cgroup = root / f"otc-test-{os.getpid()}"
    cgroup.mkdir()
    try:
        yield cgroup
    finally:
        cgroup.rmdir()
