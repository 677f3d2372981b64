"""The delivery of this process: what the exporters use that the SDK makes by name.

State of the module, because the SDK makes each exporter by its class alone, and the three are to share one
spool and one connection for each signal.
"""

import os
from functools import partial
from pathlib import Path

from otel_connect.config import ExportConfig, Protocol
from otel_connect.errors import OtelConnectError
from otel_connect.export.answer import Action, Answer
from otel_connect.export.endpoint import Endpoint
from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.forks import GATE
from otel_connect.export.transport import Transport, open_transport
from otel_connect.plugin.delivery import Delivery, Station
from otel_connect.plugin.forking import Forks
from otel_connect.plugin.heir import Heir
from otel_connect.plugin.hooks import Hooks
from otel_connect.plugin.last_words import say, tell
from otel_connect.plugin.parameters import Parameters
from otel_connect.plugin.quiet import quiet_context
from otel_connect.plugin.settings import read_settings
from otel_connect.plugin.slots import VARIABLE, refused, spool_root, take_slot

_forks = Forks()
PARAMETERS = Parameters()
"""Of the exporters of this process."""


class _Way:
    """What the variables of the process and the parameters of its exporters describe; said as far as it is new."""

    def __init__(self) -> None:
        self.context = quiet_context()
        self._said: set[str] = set()
        self.look()

    def look(self) -> None:
        """Read them again."""
        self.settings = read_settings(os.environ, PARAMETERS.pieces)
        lines = [f"{problem}; the default is used" for problem in self.settings.left_out]
        lines += [f"{problem}; until that is mended, nothing is sent" for problem in self.settings.withheld]
        for line in lines:
            self._say_once(line)

    def open_in(self, directory: Path | None, *, own: bool = False) -> OtlpExporter:
        """Open an exporter with its spool in a directory."""
        return OtlpExporter(self._export(directory), opener=self._open, context=self.context, silent=own)

    def inherit_in(self, directory: Path) -> OtlpExporter | None:
        """Open an exporter for what another process left; ``None`` as long as nothing may be sent."""
        return None if self.settings.withheld else self.open_in(directory)

    def redirect(self, exporter: OtlpExporter, directory: Path | None) -> bool:
        """Have an exporter go the way that was read last; false if nothing may be sent, or it cannot be opened."""
        try:
            exporter.reconfigure(self._export(directory))
        except (OtelConnectError, OSError, RuntimeError) as error:
            self._say_once(f"{error}; until that is fixed, the parameters of the last exporter are not used")
            return False
        return not self.settings.withheld

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            say(line)

    def _export(self, directory: Path | None) -> ExportConfig:
        return self.settings.export.model_copy(update={"spool_directory": str(directory or "")})

    def _open(self, endpoint: Endpoint) -> Transport:
        """Open a transport to an endpoint, or what keeps everything where it is as long as nothing may be sent."""
        if self.settings.withheld:
            return Withheld(self.settings.withheld[0])
        if not PARAMETERS.may_send(endpoint.signal):
            return Withheld("no exporter of this signal has been made in this process")
        if endpoint.protocol is Protocol.GRPC:
            return _forks.add(lambda: open_transport(endpoint))
        return open_transport(endpoint)


def open_station() -> Station:
    """Open what the variables of the process and the parameters of its exporters describe."""
    way = _Way()

    def adapt(exporter: OtlpExporter, directory: Path | None, heir: Heir | None) -> None:
        if PARAMETERS.given:
            way.look()
            way.redirect(exporter, directory)
            if heir is not None:
                heir.look_again()

    def in_memory(why: str, *, durable: bool = True) -> Station:
        say(f"{why}; what waits for the backend waits in memory only")
        exporter = way.open_in(None, own=True)
        return Station(exporter, None, partial(tell, exporter, ""), partial(adapt, exporter, None, None), durable)

    if not GATE.safe:
        return in_memory("this process was forked while SQLite was in use", durable=False)
    root = _root()
    if problem := refused(os.environ):
        say(f"{problem}; {root or 'memory'} is used")
    found = None if root is None else take_slot(root, lambda slot: (slot, way.open_in(slot, own=True)))
    if root is None or found is None:
        return in_memory(f"{root or VARIABLE}: no slot can be taken")
    slot, exporter = found
    heir = Heir(root, slot, way.inherit_in, way.redirect, way.context)
    return Station(exporter, heir, partial(tell, exporter, str(slot)), partial(adapt, exporter, slot, heir))


def _root() -> Path | None:
    """Find where the slots are; ``None`` when there is no such place, as for a user without a home."""
    try:
        return spool_root(os.environ, Path.home())
    except RuntimeError:
        return None


class Withheld:
    """A way to nowhere: everything stays where it is, for a start with variables that can be used.

    The reason was said at the start, and is part of what is said at the end; no server has anything to do with it.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def send(self, body: bytes) -> Answer:  # noqa: ARG002 - nobody gets it
        """Send nothing."""
        return Answer(Action.RETRY_UNHEALTHY, message=self._reason, is_known=True)

    def close(self) -> None:
        """Nothing to let go of."""


def sdk_disabled() -> bool:
    """Whether OTEL_SDK_DISABLED keeps every batch away."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _before_fork() -> None:
    _forks.before()
    GATE.before_fork()  # last, so that nobody waits at it, or passes it though it is shut, for the sake of gRPC


def _after_fork_in_parent() -> None:
    GATE.after_fork_in_parent()
    _forks.after_in_parent()


def _after_fork_in_child() -> None:
    GATE.after_fork_in_child()
    DELIVERY.after_fork_in_child()


DELIVERY = Delivery(open_station, idle=sdk_disabled())
Hooks().register(_before_fork, _after_fork_in_parent, _after_fork_in_child)
