"""The standard OTEL_EXPORTER_OTLP_* variables of an application, which must start whatever is in them.

The agent refuses to start with a malformed variable. A plugin cannot: one clear line is logged for each.
A value that only says *how* to send (protocol, compression, timeout, insecure) is then left out, as the
specification has it. One that says *where to, and as whom* (endpoint, headers, certificates) is not
replaced by a default, which would carry the telemetry somewhere else than was asked for: nothing is sent,
what is exported waits in the spool, and the next start with a corrected variable sends it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from otel_connect.config import Configuration, ExportConfig, Layer, Loaded, Output, load
from otel_connect.environment import environment_layer
from otel_connect.errors import ConfigError
from otel_connect.export.endpoint import resolve
from otel_connect.export.tls import file_problems
from otel_connect.plugin.parameters import Piece

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


def read_settings(environ: Mapping[str, str], parameters: Iterable[Piece] = ()) -> Settings:
    """Read the variables, and what exporters were given besides, which wins; never raises."""
    usable: list[Layer] = []
    left_out: list[str] = []
    withheld: list[str] = []
    names = sorted(name for name in environ if name.startswith(_PREFIX))
    variables = (Piece(environment_layer({name: environ[name]}), name.endswith(_HOW)) for name in names)
    for piece in (*variables, *parameters):
        if not (problems := list(_problems(piece.layer))):
            usable.append(piece.layer)
        elif piece.how:
            left_out += problems
        else:
            withheld += problems
    loaded = _load(usable)
    try:
        with loaded.places.named():
            endpoints = resolve(loaded.configuration.export)
    except ConfigError as error:
        withheld += error.problems
    else:
        files = [problem for endpoint in endpoints.values() for problem in file_problems(endpoint)]
        withheld += dict.fromkeys(files)
    export = (loaded if not withheld else _load([])).configuration.export
    return Settings(export, tuple(left_out), tuple(withheld))


def _load(layers: Iterable[Layer]) -> Loaded[Configuration]:
    # An application that names this exporter wants OTLP: without an endpoint, to the specification's default.
    wanted = Layer({"export.output": Output.OTLP}, {"export.output": "output"})
    return load(Configuration, [wanted, *layers])


def _problems(layer: Layer) -> Iterator[str]:
    try:
        _load([layer])
    except ConfigError as error:
        yield from error.problems
