"""The standard OTEL_EXPORTER_OTLP_* variables of an application, which must start whatever is in them.

The agent refuses to start with a malformed variable. A plugin cannot: one clear line is logged for each.
A value that only says *how* to send (protocol, compression, timeout, insecure) is then left out, as the
specification has it. One that says *where to, and as whom* (endpoint, headers, certificates) is not
replaced by a default, which would carry the telemetry somewhere else than was asked for: nothing is sent,
what is exported waits in the spool, and the next start with the variable mended sends it.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from otel_connect.config import ExportConfig, Layer, Output, build
from otel_connect.environment import environment_layer
from otel_connect.errors import ConfigError
from otel_connect.export.endpoint import resolve
from otel_connect.export.tls import file_problems

_PREFIX = "OTEL_EXPORTER_OTLP_"
_HOW = ("PROTOCOL", "COMPRESSION", "TIMEOUT", "INSECURE")


class Settings(NamedTuple):
    """How the plugin delivers."""

    export: ExportConfig
    """Usable as it is; of no meaning for where to send when ``withheld`` says something."""
    left_out: tuple[str, ...]
    """One line for each variable whose default is used instead."""
    withheld: tuple[str, ...]
    """One line for each reason not to send anything yet."""


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read the variables; never raises."""
    usable: dict[str, str] = {}
    left_out: list[str] = []
    withheld: list[str] = []
    for name in sorted(name for name in environ if name.startswith(_PREFIX)):
        alone = {name: environ[name]}
        if not (problems := list(_problems(alone))):
            usable |= alone
        elif name.endswith(_HOW):
            left_out += problems
        else:
            withheld += problems
    export = _export(usable)
    try:
        endpoints = resolve(export)
    except ConfigError as error:
        withheld += error.problems
    else:
        files = [problem for endpoint in endpoints.values() for problem in file_problems(endpoint)]
        withheld += dict.fromkeys(files)
    return Settings(export if not withheld else _export({}), tuple(left_out), tuple(withheld))


def _export(environ: Mapping[str, str]) -> ExportConfig:
    # An application that names this exporter wants OTLP: without an endpoint, to the specification's default.
    wanted = Layer({"export.output": Output.OTLP}, {"export.output": "output"})
    return build([wanted, environment_layer(environ)]).export


def _problems(environ: Mapping[str, str]) -> Iterator[str]:
    try:
        _export(environ)
    except ConfigError as error:
        yield from error.problems
