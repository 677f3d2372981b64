"""The load generators, compiled for the run."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_SOURCES = Path(__file__).parent
_PROGRAMS = ("connects", "bystanders")
_FILES = 10_000


class Load:
    """``connects.c`` and ``bystanders.c``, pinned to a core."""

    def __init__(self, directory: Path, core: int) -> None:
        self._directory = directory
        self._core = core
        self.files = directory / "files"
        """The working directory of the generators."""

    def run(self, program: str, mode: str, cycles: int, rate: int | None = None) -> float:
        """Make so many cycles, at most ``rate`` in a second; returns the CPU time of one in ns."""
        command = self.command(program, mode, cycles, rate)
        return float(subprocess.run(command, cwd=self.files, check=True, stdout=subprocess.PIPE, text=True).stdout)

    def command(self, program: str, mode: str, cycles: int, rate: int | None = None) -> list[str]:
        """Return the argument list of such a run."""
        pace = [] if rate is None else [str(rate)]
        return [str(self._directory / program), mode, str(cycles), str(self._core), *pace]


@contextmanager
def compiled_load(core: int) -> Iterator[Load]:
    """Compile the generators into a temporary directory, and make the files there that one of them opens."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        for program in _PROGRAMS:
            flags = ["-O2", "-Wall", "-Wextra", "-Werror", f"-DFILES={_FILES}"]
            subprocess.run(["gcc", *flags, "-o", directory / program, _SOURCES / f"{program}.c"], check=True)
        load = Load(directory, core)
        load.files.mkdir()
        for number in range(_FILES):
            (load.files / str(number)).touch()
        yield load
