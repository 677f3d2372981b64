"""Where the spools of an application lie: numbered directories, each held by one process at a time.

An application may be many processes (workers of a server, a pool), and a spool belongs to one. Each takes
the first slot that nobody holds, together with what the last holder left in it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from otel_connect.config.export import is_absolute
from otel_connect.errors import SpoolInUseError

_T = TypeVar("_T")

VARIABLE = "OTEL_CONNECT_SPOOL_DIRECTORY"
_MOST = 1024


def spool_root(environ: Mapping[str, str], home: Path) -> Path:
    """Find the directory of the slots.

    Without a usable OTEL_CONNECT_SPOOL_DIRECTORY it lies below the user's state directory, by the name of the
    service: what one application left must not be sent by another, which may have another backend.
    """
    directory = environ.get(VARIABLE, "").strip()
    if directory and not refused(environ):
        return Path(directory)
    state = Path(environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # as the XDG specification has it
        state = home / ".local" / "state"
    return state / "otel-connect" / "spool" / _file_name(_service(environ))


def refused(environ: Mapping[str, str]) -> str:
    """Say why OTEL_CONNECT_SPOOL_DIRECTORY is not used; empty if it is, or is not set.

    A relative path leads somewhere else after a change of the working directory, as daemons make one, and the next
    start would not find what this one has left.
    """
    directory = environ.get(VARIABLE, "").strip()
    if not directory or is_absolute(directory):
        return ""
    return f"{VARIABLE}: must be an absolute path, not {directory!r}"


def take_slot(root: Path, open_in: Callable[[Path], _T]) -> _T | None:
    """Open the first slot that no other process holds; ``None`` when all are held.

    ``open_in`` raises SpoolInUseError for one that is.
    """
    for number in range(_MOST):
        try:
            return open_in(root / str(number))
        except SpoolInUseError:
            continue
    return None


def slots(root: Path) -> list[Path]:
    """Find the slots that were ever taken."""
    try:
        found = [path for path in root.iterdir() if path.name.isdecimal()]
    except OSError:
        return []
    return sorted(found, key=lambda path: int(path.name))


def _service(environ: Mapping[str, str]) -> str:
    pairs = (pair.partition("=") for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    told = {key.strip(): value.strip() for key, _, value in pairs}
    return environ.get("OTEL_SERVICE_NAME", "").strip() or told.get("service.name", "") or "unknown_service"


def _file_name(text: str) -> str:
    """Make a name of one path segment, different for different texts as far as it is not cut."""
    return quote(text, safe=" ", errors="backslashreplace").replace(".", "%2E")[:200]
