"""What of a configuration can change while the agent runs: put in force all together, or not at all."""

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from otel_connect.agent import Agent
from otel_connect.config import CaptureConfig, Configuration, EnrichConfig
from otel_connect.enrich.asking import Reader
from otel_connect.enrich.backends import Backends
from otel_connect.enrich.enricher import Enricher
from otel_connect.enrich.filters import Filters
from otel_connect.enrich.hosts import Hosts
from otel_connect.enrich.kubelet import KubeletClient, Pods
from otel_connect.enrich.mask_key import masks
from otel_connect.enrich.names import Names
from otel_connect.enrich.otel_context import process_context
from otel_connect.enrich.peers import KnownPeers
from otel_connect.enrich.processes import Lookups, Processes, Shown, unknown
from otel_connect.enrich.procfs import root_mount, start_boot_ns, user_name
from otel_connect.enrich.users import Init, Owner, Users
from otel_connect.enrich.workloads import Workloads, no_pod
from otel_connect.errors import ConfigError
from otel_connect.export.endpoint import output_kind
from otel_connect.serve.listener import Listener, wanted
from otel_connect.serve.log import start_log
from otel_connect.serve.report import Report

_log = logging.getLogger(__name__)

NO_PAGES = "no status server"
"""How the line begins that says why the agent goes on without, at the default address."""
_INIT = 1

# What is made once: the probes with their memory, their limits and what they read, the directory that is
# locked, what takes a privilege.
MADE_AT_START = (
    *(("capture", key) for key in CaptureConfig.model_fields if key != "drain_interval_ms"),
    ("enrich", "names"),
    ("enrich", "command_args"),
    ("export", "spool_directory"),
    ("enrich", "conntrack"),
)


class Output(Protocol):
    """What can be configured anew of an output."""

    def reconfigure(self, configuration: Configuration) -> None:
        """Encode and deliver in another way; raises ConfigError and changes nothing if that cannot be."""


class Server(Protocol):
    """What serves reports: serve.http.StatusServer."""

    def publish(self, report: Report) -> None:
        """Take the report that is served from now on."""

    def close(self) -> None:
        """Stop serving and listening."""


class StatusPages:
    """The status server, if there is one: bound early, started late, and moved when its address changes."""

    def __init__(self, configuration: Configuration) -> None:
        """Bind the socket, without a thread yet; raises ConfigError unless the address is only the default."""
        self._listener = self._bind(configuration)
        self._server: Server | None = None
        self._report: Report | None = None

    def start(self, report: Report) -> None:
        """Serve from now on, beginning with this report."""
        self._report = report
        if self._listener is not None:
            self._server = _serve(self._listener, report)

    def publish(self, report: Report) -> None:
        """Serve this report from now on."""
        self._report = report
        if self._server is not None:
            self._server.publish(report)

    def prepare(self, configuration: Configuration) -> Listener | None:
        """Bind where this configuration wants it, if that is elsewhere than now; raises ConfigError."""
        now = None if self._listener is None else self._listener.address
        if wanted(configuration.serve) == now:
            return self._listener
        return self._bind(configuration)

    def move(self, listener: Listener | None) -> None:
        """Serve on what ``prepare`` returned, and no more where it was."""
        if listener is self._listener:
            return
        self.close()
        self._listener = listener
        if self._report is not None:
            self.start(self._report)

    def discard(self, listener: Listener | None) -> None:
        """Give up what ``prepare`` returned."""
        if listener is not None and listener is not self._listener:
            listener.close()

    def close(self) -> None:
        """Stop serving and listening."""
        if self._server is not None:
            self._server.close()
        elif self._listener is not None:
            self._listener.close()
        self._server = self._listener = None

    @staticmethod
    def _bind(configuration: Configuration) -> Listener | None:
        address = wanted(configuration.serve)
        if address is None:
            return None
        try:
            return Listener(address)
        except ConfigError as error:
            if configuration.serve.listen is not None:
                raise
            _log.warning("%s: %s", NO_PAGES, error)
            return None


class Running:
    """The parts of a running agent that a new configuration changes."""

    def __init__(
        self,
        configuration: Configuration,
        agent: Agent,
        output: Output,
        pages: StatusPages,
        new_enricher: Callable[[EnrichConfig], Enricher],
    ) -> None:
        self._started_with = self._configuration = configuration
        self._agent = agent
        self._output = output
        self._pages = pages
        self._new_enricher = new_enricher

    def apply(self, new: Configuration) -> tuple[str, ...]:
        """Put a configuration in force; raises ConfigError and changes nothing if that cannot be.

        Returns the keys that have changed but need a restart.
        """
        old = self._configuration
        enricher = self._enricher(new.enrich) if _renames(old, new) else None
        stays = output_kind(new.export) is output_kind(self._started_with.export)
        listener = self._pages.prepare(new)
        try:
            if stays:
                self._output.reconfigure(_in_the_same_spool(new, self._started_with))
        except ConfigError:
            self._pages.discard(listener)
            raise
        self._pages.move(listener)
        start_log(new.log.format)
        if enricher is not None:
            self._agent.rename(enricher)
        if new.filter != old.filter:
            self._agent.filter(Filters(new.filter))
        self._agent.interval_s = new.capture.drain_interval_ms / 1000
        self._configuration = new
        return (*_changed(self._started_with, new), *(() if stays else ("export.output",)))

    def _enricher(self, config: EnrichConfig) -> Enricher:
        """Make one for what the probes read: that they were made for."""
        read = {"command_args": self._started_with.enrich.command_args}
        return self._new_enricher(config.model_copy(update=read))


def make_enricher(
    config: EnrichConfig, *, reader: Reader | None, init: Init | None, backends: Backends | None
) -> Enricher:
    """Have processes looked up in /proc; without a reader, nowhere.

    There is none where the pids of /proc are not the kernel's: they would name unrelated processes. ``init`` is what
    ``first_process`` returned while it was permitted to look.

    Raises ConfigError when a file that the configuration names cannot be used.
    """
    remembered = config.process_cache_size
    user = _users(reader, init).name if config.user_names else _nameless
    shown = Shown(config.command_args, config.vpid, config.cgroup_path)
    pods = pods_of(config)
    pod = no_pod if pods is None else pods.of
    lookups = Lookups() if reader is None else _lookups(reader, config)
    context = (
        unknown if reader is None or not config.process_context else partial(process_context, message=reader.message)
    )
    hosts = Hosts(unknown if reader is None else reader.hosts, time.monotonic_ns)
    return Enricher(
        Processes(lookups, user, remembered, shown),
        Workloads(context, remembered, pod),
        KnownPeers(config.known_peers),
        masks=masks(config),
        names=Names(hosts) if config.names else None,
        backends=backends,
        pods=pods,
        reader=reader,
    )


def _lookups(reader: Reader, config: EnrichConfig) -> Lookups:
    arguments = reader.arguments if config.command_args else reader.first_argument
    return Lookups(reader.executable, reader.surroundings, arguments)


def pods_of(config: EnrichConfig) -> Pods | None:
    """Prepare to ask the kubelet, if the configuration wants it; raises ConfigError for a bad certificate."""
    if config.kubelet_url is None:
        return None
    return Pods(KubeletClient(config.kubelet_url, config.kubelet_token_file, config.kubelet_certificate))


def first_process() -> Init | None:
    """Look at the first process of the host; ``None`` where that is not permitted."""
    mount = root_mount(_INIT)
    return None if mount is None else Init(mount, _INIT, start_boot_ns(_INIT))


def _users(reader: Reader | None, init: Init | None) -> Users:
    """Know users by the root directory of their process; where processes cannot be asked, only of the agent's own."""
    own_root = root_mount(os.getpid())
    if reader is None:
        return Users(user_name, lambda *_: (False, None), own_root, None)
    return Users(user_name, reader.user, own_root, init)


def _nameless(_owner: Owner) -> None:
    """Know no user's name."""


def _renames(old: Configuration, new: Configuration) -> bool:
    """Whether something is to be found out, or said, in another way; the file of a key may hold another one."""
    return new.enrich != old.enrich or new.enrich.mask_key_file is not None


def _changed(old: Configuration, new: Configuration) -> list[str]:
    def value(configuration: Configuration, section: str, key: str) -> object:
        return getattr(getattr(configuration, section), key)

    return [".".join(place) for place in MADE_AT_START if value(old, *place) != value(new, *place)]


def _in_the_same_spool(new: Configuration, old: Configuration) -> Configuration:
    export = new.export.model_copy(update={"spool_directory": old.export.spool_directory})
    return new.model_copy(update={"export": export})


def _serve(listener: Listener, report: Report) -> Server:
    from otel_connect.serve.http import StatusServer  # noqa: PLC0415 - only who serves pays for the libraries

    return StatusServer(listener, report)
