"""What /proc says about a process, asked by pid and start time: pids are used again."""

import os
from contextlib import suppress
from io import FileIO
from pathlib import Path
from pwd import getpwuid

from otel_connect.enrich.published import service_variables
from otel_connect.model import Surroundings

_START_TIME = 22  # field of /proc/<pid>/stat, counted from 1 as in proc(5)
_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_MOST_ENVIRONMENT = 128 << 10
_MOST_ARGUMENTS = 4096
_MOST_FIRST_ARGUMENT = 255
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO


def executable(pid: int, start_boot_ns: int, proc: Path = Path("/proc")) -> str | None:
    """Return the path of the file that a process runs, ``None`` when it is gone or may not be asked.

    A process with the same pid but another start time is another process.
    """
    here = proc / str(pid)
    try:
        path = os.fsencode((here / "exe").readlink())
        if not is_process(here, start_boot_ns):
            return None
    except OSError:
        return None
    return _text(path).removesuffix(" (deleted)")


def surroundings(pid: int, start_boot_ns: int, proc: Path = Path("/proc")) -> Surroundings | None:
    """Return what a process lives in, ``None`` when it is gone.

    Its cgroups are as they are seen from the cgroup namespace of the agent. Of a process of another user the
    environment is read only with CAP_DAC_READ_SEARCH: without it, there are no variables.
    """
    here = proc / str(pid)
    environment = b""
    try:
        cgroups = (here / "cgroup").read_bytes()
        with suppress(PermissionError), (here / "environ").open("rb") as file:
            environment = file.read(_MOST_ENVIRONMENT)
        if not is_process(here, start_boot_ns):
            return None
    except OSError:
        return None
    paths = {}
    for line in cgroups.splitlines():
        _, controllers, path = _text(line).split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    return Surroundings(paths.get(""), paths.get("pids"), service_variables(map(_text, environment.split(b"\0"))))


def is_process(folder: Path | str, start_boot_ns: int) -> bool:
    """Say whether ``/proc/<pid>`` is still that of the process that began then; raises OSError when it is gone."""
    return int(_stat_fields(folder)[_START_TIME - 3]) == start_boot_ns // _NS_PER_TICK


def _stat_fields(folder: Path | str) -> list[bytes]:
    """Return the fields of /proc/<pid>/stat from the third on."""
    stat = _content(folder, "stat")
    # The name in the second field may hold blanks and parentheses, so fields are counted from its end.
    return stat[stat.rindex(b")") + 2 :].split()


def arguments(pid: int, start_boot_ns: int, proc: Path = Path("/proc")) -> tuple[str, ...] | None:
    """Return the arguments of a process, secrets included, ``None`` as for ``executable``."""
    here = proc / str(pid)
    try:
        with (here / "cmdline").open("rb") as file:
            *strings, rest = file.read(_MOST_ARGUMENTS).split(b"\0")
        if not is_process(here, start_boot_ns):
            return None
    except OSError:
        return None
    # What comes after the last zero: all of what a process has written over them, or the beginning of what is cut.
    return tuple(map(_text, strings or [rest]))


def start_boot_ns(pid: int, proc: Path = Path("/proc")) -> int:
    """Return when a process began, as precisely as /proc says it; raises OSError when it is gone."""
    return int(_stat_fields(proc / str(pid))[_START_TIME - 3]) * _NS_PER_TICK


def root_mount(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Return the id of the mount whose top is the root directory of a process; ``None`` where that is not to be had."""
    try:
        opened = os.open(proc / str(pid) / "root", os.O_PATH | os.O_CLOEXEC)
        try:
            about = Path(f"/proc/self/fdinfo/{opened}").read_bytes()
        finally:
            os.close(opened)
        number = about.partition(b"mnt_id:")[2].split(maxsplit=1)[0]
        mounts = (proc / str(pid) / "mountinfo").read_bytes()
    except (OSError, IndexError):
        return None
    # Of a root directory further down there is no line: the mount it is in begins outside.
    fields = (line.split(maxsplit=5) for line in mounts.splitlines())
    return next((int(number) for one in fields if one[0] == number and one[4] == b"/"), None)


def user_inside(pid: int, start_boot_ns: int, uid: int, proc: Path = Path("/proc")) -> int | None:
    """Return the number that a user has in the user namespace of a process; ``None``: none there, or it is gone."""
    here = f"{proc}/{pid}"
    try:
        lines = _content(here, "uid_map").splitlines()
        if not is_process(here, start_boot_ns):
            return None
    except OSError:
        return None
    for line in lines:
        inside, outside, count = map(int, line.split())
        if outside <= uid < outside + count:
            return inside + uid - outside
    return None


def first_argument(pid: int, start_boot_ns: int, proc: Path = Path("/proc")) -> tuple[str, ...] | None:
    """Return the first argument of a process, and read nothing of the others; ``None`` as for ``executable``.

    One that is longer than the kernel would tell is left out.
    """
    here = proc / str(pid)
    read = bytearray()
    try:
        with (here / "cmdline").open("rb", buffering=0) as file:
            while len(read) <= _MOST_FIRST_ARGUMENT and (byte := file.read(1)) not in {b"\0", b""}:
                read += byte
        if not is_process(here, start_boot_ns) or len(read) > _MOST_FIRST_ARGUMENT:
            return None
    except OSError:
        return None
    return (_text(bytes(read)),)


def user_name(uid: int) -> str | None:
    """Return the name of a user as the agent's own root directory has it, ``None`` when it has none."""
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return None


def sees_host_processes(proc: Path = Path("/proc")) -> bool:
    """Say whether pids of the kernel are those of /proc: not so inside a container's PID namespace."""
    try:
        return str((proc / "self/ns/pid").readlink()) == _INITIAL_PID_NAMESPACE
    except OSError:
        return False


def _content(folder: Path | str, name: str) -> bytes:
    # In half the time of Path.read_bytes(): this is read of every process.
    with FileIO(f"{folder}/{name}") as file:
        return file.readall()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
