"""What a configuration is refused or warned for before anything is captured: the same for ``run`` and ``validate``.

Nothing that is done here stays: a socket is closed again, and no directory is made.
"""

import logging
from collections.abc import Callable, Iterator
from io import FileIO
from os import devnull
from pathlib import Path

from otel_connect.capture.privileges import without_privileges
from otel_connect.config import Configuration, Loaded, Output
from otel_connect.enrich.mask_key import masks
from otel_connect.errors import ConfigError, SpoolInUseError
from otel_connect.export.doubts import doubts
from otel_connect.export.endpoint import output_kind, resolve
from otel_connect.export.recovery import examine
from otel_connect.export.store import StoreError
from otel_connect.export.tls import file_problems
from otel_connect.json_output import JsonLines
from otel_connect.outputs import make_telemetry
from otel_connect.running import NO_PAGES, StatusPages, pods_of
from otel_connect.serve.lines import Lines
from otel_connect.serve.listener import Listener, NotAliveError, ask_livez, wanted

_log = logging.getLogger(__name__)


def problems(configuration: Configuration) -> Iterator[str]:
    """Say what of a configuration cannot be put in force, each by its key; a reload refuses that, too.

    Files are read with the privileges that a running agent has.
    """
    yield from _refusals(lambda: resolve(configuration.export))
    with without_privileges():
        yield from _refusals(lambda: masks(configuration.enrich))
        yield from _refusals(lambda: pods_of(configuration.enrich))
        if _is_sent(configuration):
            for place in resolve(configuration.export).values():
                yield from file_problems(place)


def problems_of_a_start(configuration: Configuration) -> Iterator[str]:
    """Say what ``run`` refuses to start with: besides those, what another process has in use."""
    yield from problems(configuration)
    if configuration.serve.listen:
        yield from _refusals(lambda: _listen(configuration))
    yield from _refusals(lambda: _look_at_spool(configuration))


def problems_beside_an_agent(configuration: Configuration) -> Iterator[str]:
    """Say the same but for what an agent that is running has in use, because that agent can take it."""
    yield from problems(configuration)
    if configuration.serve.listen:
        listening = list(_refusals(lambda: _listen(configuration)))
        if listening and not _agent_answers(configuration):
            yield from listening


def warn_of_use(loaded: Loaded[Configuration]) -> None:
    """Say what an agent that is running has in use."""
    configuration = loaded.configuration
    taken = list(_refusals(lambda: _look_at_spool(configuration)))
    listening = list(_refusals(lambda: _listen(configuration)))
    if listening and _agent_answers(configuration):
        # At the default address nothing is refused: the agent goes on without.
        taken += listening if configuration.serve.listen else [f"{NO_PAGES}: {line}" for line in listening]
    for refusal in taken:
        _log.warning("%s; the agent that has it can be given this configuration", loaded.places.name(refusal))


def warn_of_doubts(loaded: Loaded[Configuration]) -> None:
    """Say what is allowed and hardly meant."""
    for warning in loaded.warnings:
        _log.warning("%s", warning)
    for doubt in doubts(loaded.configuration.export):
        _log.warning("%s", loaded.places.name(doubt))


def warn(configuration: Configuration) -> None:
    """Say what ``run`` warns about until it captures, by doing the same to no effect."""
    if configuration.serve.listen is None and not _agent_answers(configuration):
        StatusPages(configuration).close()
    kind = output_kind(configuration.export)
    if kind is not Output.CONSOLE:
        with FileIO(devnull, "wb") as nowhere:
            make_telemetry(configuration, JsonLines(Lines(nowhere)))
    if kind is Output.OTLP:
        try:
            _look_at_spool(configuration)
        except StoreError as error:
            _log.warning("spool: %s; what comes in waits in memory, and the disk is tried again", error)
        except SpoolInUseError:
            return  # that was said


def destinations(configuration: Configuration) -> Iterator[str]:
    """Say where each signal goes and waits, where the status pages are, and where the names come from."""
    kind, endpoints = output_kind(configuration.export), resolve(configuration.export)
    if kind is Output.OTLP:
        for name, place in endpoints.items():
            yield f"{name}: {place.protocol} to {place.url}"
    else:
        where = "the console" if kind is Output.CONSOLE else "standard output, as OTLP JSON"
        signals = "attempts" if kind is Output.CONSOLE else "logs, metrics, traces"
        ignored = f"; export.output = {kind.value!r}, so no endpoint is used" if endpoints else ""
        yield f"{signals}: to {where}{ignored}"
    if kind is Output.OTLP:
        yield f"spool: {configuration.export.spool_directory or 'in memory only'}"
    yield f"status pages: {wanted(configuration.serve) or 'off'}"
    yield f"names of peers: {'from DNS and /etc/hosts' if configuration.enrich.names else 'off'}"


def _refusals(step: Callable[[], object]) -> Iterator[str]:
    try:
        step()
    except ConfigError as error:
        yield from error.problems
    except StoreError:
        return  # no refusal: run goes on in memory, and says so


def _listen(configuration: Configuration) -> None:
    if address := wanted(configuration.serve):
        Listener(address).close()


def _agent_answers(configuration: Configuration) -> bool:
    """Whether an agent is running where this configuration listens, or would by default."""
    address = wanted(configuration.serve)
    try:
        return address is not None and bool(ask_livez(address))
    except NotAliveError:
        return False


def _look_at_spool(configuration: Configuration) -> None:
    if _is_sent(configuration) and configuration.export.spool_directory:
        with without_privileges():
            examine(Path(configuration.export.spool_directory))


def _is_sent(configuration: Configuration) -> bool:
    """Whether it goes to a backend; false also where the endpoints cannot be used, which is said elsewhere."""
    try:
        return output_kind(configuration.export) is Output.OTLP
    except ConfigError:
        return False
