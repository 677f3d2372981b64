"""Sends what other processes of the application left behind: a worker that crashed, a child that ended at once.

The next process to take their slot would do so, too. But it may never come: of eight workers four are
started again, or the children of a pool end a moment after their work.
"""

import threading
from collections.abc import Callable
from contextvars import Context
from pathlib import Path

from otel_connect.errors import SpoolInUseError
from otel_connect.export.exporter import OtlpExporter
from otel_connect.plugin.slots import slots

_Stamp = tuple[tuple[int, int], ...]

LOOK_EVERY_S = 30.0
_ASK_EVERY_S = 0.2
_FILES = ("spool.db", "spool.db-wal")


class Heir:
    """Looks through the slots of ``root`` but ``own``, and holds one at a time until it is empty.

    ``open_in`` opens the exporter of a slot. Runs in a thread, in a copy of ``context``, until ``close``.
    """

    def __init__(
        self,
        root: Path,
        own: Path,
        open_in: Callable[[Path], OtlpExporter],
        context: Context,
        *,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._root = root
        self._own = own
        self._open_in = open_in
        self._look_every_s = look_every_s
        self._stop = threading.Event()
        self._found_empty: dict[Path, _Stamp] = {}
        self._exporter: OtlpExporter | None = None
        self._changing = threading.Lock()
        self._thread = threading.Thread(target=context.copy().run, args=(self._run,), name="export-heir", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Let go of what it holds; what is left there waits for the next."""
        self._stop.set()
        self._thread.join(timeout_s)

    def before_fork(self, timeout_s: float) -> bool:
        """Wait until nothing is half open or half closed, and keep it so; false when the time is up first."""
        return self._changing.acquire(timeout=timeout_s)

    def after_fork_in_parent(self) -> None:
        """Go on, after a ``before_fork`` that gave true."""
        self._changing.release()

    def abandon(self) -> None:
        """In a child made by fork: leave everything to the parent."""
        if self._exporter is not None:
            self._exporter.abandon()

    def _run(self) -> None:
        while True:
            for slot in slots(self._root):
                if self._stop.is_set():
                    return
                if slot != self._own and _stamp(slot) not in {(), self._found_empty.get(slot)}:
                    self._serve(slot)
            if self._stop.wait(self._look_every_s):
                return

    def _serve(self, slot: Path) -> None:
        try:
            with self._changing:
                exporter = self._exporter = self._open_in(slot)
        except SpoolInUseError:
            return
        while not (empty := _is_empty(exporter)) and not self._stop.wait(_ASK_EVERY_S):
            pass
        with self._changing:
            self._exporter = None
            exporter.close(0.0)
        if empty:
            self._found_empty[slot] = _stamp(slot)


def _is_empty(exporter: OtlpExporter) -> bool:
    return not any(account.queued for account in exporter.accounts().values())


def _stamp(slot: Path) -> _Stamp:
    """Tell one state of a slot's files from another; empty where there are none."""
    found = []
    for name in _FILES:
        try:
            status = (slot / name).stat()
        except OSError:
            continue
        found.append((status.st_size, status.st_mtime_ns))
    return tuple(found)
