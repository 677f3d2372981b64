"""Sends what other processes of the application left behind: a worker that crashed, a child that ended at once.

The next process to take their slot would do so, too. But it may never come: of eight workers four are
started again, or the children of a pool end a moment after their work.
"""

import logging
import threading
from collections.abc import Callable
from contextvars import Context
from functools import partial
from itertools import count
from pathlib import Path

from otel_connect.errors import OtelConnectError, SpoolInUseError
from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.lines import ANY_HANDLER
from otel_connect.plugin.slots import slots

_log = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int], ...]

LOOK_EVERY_S = 30.0
_ASK_EVERY_S = 0.2
_MOST_LOOKS = 64  # from one try to the next, for a slot that stays in trouble
_FILES = ("spool.db", "spool.db-wal")


class Heir:
    """Looks through the slots of ``root`` but ``own``, and holds one at a time until it is empty.

    ``open_in`` opens the exporter of a slot; ``None`` as long as nothing may be sent. ``adapt`` has an exporter go the
    way that it would be opened for now, and is false if nothing may be sent any more. Runs in a thread, in a copy of
    ``context``, until ``close``.
    """

    def __init__(
        self,
        root: Path,
        own: Path,
        open_in: Callable[[Path], OtlpExporter | None],
        adapt: Callable[[OtlpExporter, Path], bool],
        context: Context,
        *,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._root = root
        self._own = own
        self._open_in = open_in
        self._adapt = adapt
        self._look_every_s = look_every_s
        self._closed = False
        self._woken = threading.Event()
        self._found_empty: dict[Path, _Stamp] = {}
        self._pauses: dict[Path, int] = {}  # in looks, longer than 1 for a slot in trouble
        # Listed here, while the application waits: once it goes on, it may close what it did not open, and the
        # descriptor of a directory that is being read may then be one of its own.
        run = partial(self._run, slots(root))
        self._thread = threading.Thread(target=context.copy().run, args=(run,), name="export-heir", daemon=True)
        self._thread.start()

    def look_again(self) -> None:
        """Adapt what it holds, and look through all slots now: there is another way to send."""
        self._woken.set()

    def close(self, timeout_s: float) -> None:
        """Let go of what it holds; what is left there waits for the next."""
        self._closed = True
        self._woken.set()
        self._thread.join(timeout_s)

    def _run(self, found: list[Path]) -> None:
        for look in count():
            for slot in found:
                if self._closed:
                    return
                pause = self._pauses.get(slot, 1)
                if slot != self._own and look % pause == 0 and _stamp(slot) not in {(), self._found_empty.get(slot)}:
                    self._pauses[slot] = 1 if self._serve(slot) else min(2 * pause, _MOST_LOOKS)
            if self._told_to_adapt(self._look_every_s):
                self._pauses.clear()
            if self._closed:
                return
            found = slots(self._root)

    def _serve(self, slot: Path) -> bool:
        """Send what lies in a slot; false when something is in the way that may last."""
        try:
            exporter = self._open_in(slot)
        except SpoolInUseError:
            return True
        except (OtelConnectError, OSError, RuntimeError) as error:
            if self._pauses.get(slot, 1) == 1:
                with ANY_HANDLER:
                    _log.warning("%s: what another process has left there cannot be sent now: %s", slot, error)
            return False
        if exporter is None:
            return True
        while True:
            # Asked first: an account is empty, too, while the disk cannot be read, and it may work again at any moment.
            trouble = exporter.spool_state().degraded
            empty = _is_empty(exporter)
            if empty or (self._told_to_adapt(_ASK_EVERY_S) and not self._adapt(exporter, slot)) or self._closed:
                break
        exporter.close(0.0)
        if empty and trouble is None:
            self._found_empty[slot] = _stamp(slot)
        return trouble is None

    def _told_to_adapt(self, timeout_s: float) -> bool:
        """Wait so long at the most, to be told to adapt or to end."""
        if self._woken.wait(timeout_s):
            self._woken.clear()
            return not self._closed
        return False


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
