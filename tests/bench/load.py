"""The load generator, compiled for the run."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_SOURCE = Path(__file__).with_name("connects.c")


class Load:
    """``connects.c``, pinned to a core."""

    def __init__(self, program: Path, core: int) -> None:
        self._program = program
        self._core = core

    def run(self, mode: str, cycles: int, rate: int | None = None) -> float:
        """Make so many cycles, at most ``rate`` in a second; returns the CPU time of one in ns."""
        pace = [] if rate is None else [str(rate)]
        command = [str(self._program), mode, str(cycles), str(self._core), *pace]
        return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


@contextmanager
def compiled_load(core: int) -> Iterator[Load]:
    """Compile the generator into a temporary directory."""
    with TemporaryDirectory() as directory:
        program = Path(directory, "connects")
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, _SOURCE], check=True)
        yield Load(program, core)
