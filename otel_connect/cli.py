"""The commands, and what a user is told when something is wrong: one line each, and an exit code.

0 done · 1 not healthy · 2 configuration or usage · 70 internal fault · 74 standard output did not take everything ·
77 not permitted · 78 kernel or bindings unsupported
"""

import errno
import logging
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from otel_connect import __version__
from otel_connect.config import Configuration, Layer, Loaded, Output, Protocol, file_layer, load
from otel_connect.environment import environment_layer, state_layer
from otel_connect.errors import ConfigError, OtelConnectError, ProbeError, shortage
from otel_connect.export.endpoint import resolve
from otel_connect.serve.listener import NotAliveError, ask_livez, wanted
from otel_connect.serve.log import start_log
from otel_connect.start import release
from otel_connect.usage import Commands, OneOf, Seconds, usage

_log = logging.getLogger(__name__)

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)

_LOG_FORMS = ("text", "json")

_CONFIG = click.option("--config", "file", type=click.Path(path_type=Path), help="Configuration file (TOML).")


def _tell_version() -> None:
    click.echo(f"otel-connect {__version__} (Python {platform.python_version()}, Linux {platform.release()})")


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="What each message means, and what to do: docs/troubleshooting.md",
    invoke_without_command=True,
    subcommand_metavar="COMMAND [OPTIONS]",
)
@click.option("-V", "--version", "version_wanted", is_flag=True, help="Show the version and exit.")
@click.pass_context
def commands(context: click.Context, *, version_wanted: bool) -> None:
    """Watch every TCP connect attempt of this host; send each as OpenTelemetry log, metrics and span."""
    if context.invoked_subcommand != run.name:  # which handles them
        release()
    if version_wanted:
        _tell_version()
        context.exit()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@commands.command(short_help="Capture, and show or send every attempt.")
@_CONFIG
@click.option(
    "--output",
    type=OneOf([output.value for output in Output]),
    help="Where attempts go. Default: otlp with an endpoint, console without.",
)
@click.option("--endpoint", help="OTLP endpoint, e.g. http://localhost:4318 (OTEL_EXPORTER_OTLP_ENDPOINT).")
@click.option(
    "--protocol",
    type=OneOf([protocol.value for protocol in Protocol]),
    help="OTLP transport (OTEL_EXPORTER_OTLP_PROTOCOL).  [default: http/protobuf]",
)
@click.option(
    "--log-format",
    type=OneOf(_LOG_FORMS),
    is_eager=True,  # what is said of the other flags has this form already
    callback=lambda _context, _option, form: _log_in(form),
    help="Form of the agent's own log.  [default: text]",
)
@click.option("--duration", type=Seconds(), metavar="SECONDS", help="Stop after so many seconds.")
def run(
    *,
    file: Path | None,
    output: str | None,
    endpoint: str | None,
    protocol: str | None,
    log_format: str | None,
    duration: float | None,
) -> None:
    """Capture until SIGINT or SIGTERM, or for --duration seconds. Needs root, or CAP_BPF and CAP_PERFMON.

    SIGHUP reads the configuration again.
    """
    signals = _Signals()
    release()
    flags = {
        "export.output": output,
        "export.endpoint": endpoint,
        "export.protocol": protocol,
        "log.format": log_format,
    }
    from otel_connect import checks  # noqa: PLC0415 - the other commands start without these in no time
    from otel_connect.run import run_agent  # noqa: PLC0415

    loaded = _load(file, flags, checks.problems_of_a_start)
    checks.warn_of_doubts(loaded)
    if signals.wait(0):
        return
    run_agent(loaded, signals, duration, lambda: load(Configuration, _layers(file, flags), checks.problems))


@commands.command(short_help="Check the configuration, and say where telemetry would go.")
@_CONFIG
def validate(file: Path | None) -> None:
    """Check what `run` checks before it captures, and say where telemetry would go."""
    from otel_connect import checks  # noqa: PLC0415 - the other commands start without it in no time

    loaded = _load(file, {}, checks.problems_beside_an_agent)
    checks.warn_of_doubts(loaded)
    checks.warn_of_use(loaded)
    checks.warn(loaded.configuration)
    for line in checks.destinations(loaded.configuration):
        click.echo(line)
    click.echo("configuration is valid")


@commands.command(short_help="Say what there is of all that `run` needs.")
@_CONFIG
def doctor(file: Path | None) -> None:
    """Look at the configuration and at what `run` needs of this machine, and say what records would lack.

    The probes are loaded for a moment.
    """
    from otel_connect import checks  # noqa: PLC0415 - the other commands start without these
    from otel_connect.capture.doctor import examine, of_configuration  # noqa: PLC0415
    from otel_connect.capture.hooks import Sight  # noqa: PLC0415
    from otel_connect.capture.kernel import KernelCapture  # noqa: PLC0415

    configuration = Configuration()
    problems: tuple[str, ...] = ()
    try:
        loaded = _load(file, {}, checks.problems_beside_an_agent)
    except ConfigError as error:
        problems = error.problems
    else:
        configuration = loaded.configuration
        checks.warn_of_doubts(loaded)

    def attach() -> Sight:
        with KernelCapture(configuration.capture, os.getpid(), names=configuration.enrich.names) as capture:
            return capture.sight

    findings = [*of_configuration(problems), *examine(configuration.enrich, attach)]
    for finding in findings:
        click.echo(finding)
    raise click.exceptions.Exit(next((finding.exit_code for finding in findings if finding.exit_code), 0))


@commands.command(short_help="Ask a running agent whether it is alive.")
@_CONFIG
def health(file: Path | None) -> None:
    """Ask a running agent whether it is alive: exit code 0 if it is, 1 if not.

    It is asked where it listens by default (127.0.0.1:9475), or where --config or OTEL_CONNECT_LISTEN says.
    """
    configuration = _load(file, {}, _endpoints).configuration
    address = wanted(configuration.serve)
    if address is None:
        _refuse("the status pages are switched off (serve.listen, OTEL_CONNECT_LISTEN): there is nothing to ask", 1)
    try:
        click.echo(ask_livez(address))
    except NotAliveError as error:
        _refuse(str(error), 1)


@commands.command()
def version() -> None:
    """Say which version this is, of what."""
    _tell_version()


def main() -> NoReturn:
    """Run the command line; the only place that ends the process."""
    _mend_streams()
    start_log(_log_form([environment_layer(os.environ)]))
    try:
        code = commands.main(standalone_mode=False)  # of a command that ends with one: click hands it back
        sys.stdout.flush()
    except click.exceptions.Exit as request:
        sys.exit(request.exit_code)
    except click.ClickException as error:
        _refuse(usage(error), ConfigError.exit_code)
    except click.Abort:
        _refuse("interrupted", 130)
    except OtelConnectError as error:
        _refuse(str(error), error.exit_code)
    except BrokenPipeError:
        # Whoever read this has gone, as `head` does: that is how such a pipe ends, and no failure.
        _end(0)
    except Exception as error:  # noqa: BLE001 - the last resort: no traceback reaches a user
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            _refuse(f"standard output cannot be written ({error.strerror})", 74)
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        if isinstance(error, OSError) and (remedy := shortage(error)):
            _refuse(f"cannot go on: {error.strerror} ({place}); {remedy}", ProbeError.exit_code)
        _refuse(f"internal error: {type(error).__name__}: {error} ({place}); please report this", 70)
    _end(code or 0)


def _refuse(message: str, exit_code: int) -> NoReturn:
    for line in message.splitlines() or [""]:
        _log.error("%s", line)
    _end(exit_code)


def _end(exit_code: int) -> NoReturn:
    """End the process; what standard output does not take is left, or the interpreter would fail for it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(exit_code)


def _mend_streams() -> None:
    """Open what of the standard streams is closed: else the next file or socket gets its number, and its text.

    What is written to an output that is closed stays an error; what is logged nowhere is not.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)  # the lowest free number: this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # whatever the locale: no name and no "µs" ends the agent
            stream.reconfigure(errors="backslashreplace")


def _load(
    file: Path | None, flags: Mapping[str, str | None], check: Callable[[Configuration], Iterable[str]]
) -> Loaded[Configuration]:
    """Build the configuration from all layers, and check it; what is said of it has the form that it asks for."""
    layers = _layers(file, flags)
    start_log(_log_form(layers))
    return load(Configuration, layers, check)


def _layers(file: Path | None, flags: Mapping[str, str | None]) -> list[Layer]:
    layers = [] if file is None else [file_layer(file)]
    return [state_layer(os.environ), *layers, environment_layer(os.environ), _flag_layer(flags)]


def _log_form(layers: Sequence[Layer]) -> str:
    """Return the form of the log that the last layer with a usable one asks for."""
    asked = (layer.values.get("log.format") for layer in reversed(layers))
    return next((str(form) for form in asked if form in _LOG_FORMS), _LOG_FORMS[0])


def _log_in(form: str | None) -> str | None:
    if form is not None:
        start_log(form)
    return form


def _endpoints(configuration: Configuration) -> Iterable[str]:
    """Check what every command needs: the others look at no file and no socket for it."""
    resolve(configuration.export)
    return ()


def _flag_layer(flags: Mapping[str, str | None]) -> Layer:
    values: dict[str, Any] = {key: value for key, value in flags.items() if value is not None}
    origins = {key: f"--{key.rpartition('.')[2]}" for key in values}
    if "export.endpoint" in values:
        # One endpoint on the command line is meant for every signal, whatever the variables say.
        for name in ("logs", "metrics", "traces"):
            values[f"export.{name}.endpoint"] = None
            origins[f"export.{name}.endpoint"] = "--endpoint"
    return Layer(values, origins)


class _Signals:
    """SIGINT and SIGTERM ask to stop, a second one ends the process at once; SIGHUP asks to reload.

    Not a threading.Event: its lock is not reentrant, and a handler that runs while the main thread holds it
    would wait for itself forever.
    """

    def __init__(self) -> None:
        self._stop = False
        self._reload = False
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGHUP, self._handle)

    def wait(self, timeout: float) -> bool:
        """Wait for so many seconds, or not at all once the agent shall stop; say whether it shall."""
        if not self._stop:
            time.sleep(timeout)
        return self._stop

    def take_reload(self) -> bool:
        """Say whether the configuration is to be read again; true once for each time it was asked for."""
        wanted_now, self._reload = self._reload, False
        return wanted_now

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        elif self._stop:
            os._exit(128 + number)
        else:
            self._stop = True
            if number == signal.SIGINT and os.isatty(2):  # the terminal has just shown ^C on the line
                with suppress(OSError):
                    os.write(2, b"\n")
