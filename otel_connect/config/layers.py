"""Values in layers, later ones winning key by key, and where each of them came from."""

import errno
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from otel_connect.config.files import read_file
from otel_connect.config.section import Context, Section
from otel_connect.config.words import complaint, shown_key
from otel_connect.errors import ConfigError

S = TypeVar("S", bound=Section)

_FILE_BYTES = 1 << 20
_EVERYTHING = frozenset({""})

# Tables that are values, not sections: their keys are the user's own.
_VALUE_TABLES = {("export", "headers"), *(("export", s, "headers") for s in ("logs", "metrics", "traces"))}

# What else a check of a key reads: if one of these is wrong already, what the check says may be wrong, too.
_READS = {
    "endpoint": ("protocol", "insecure"),
    "client_certificate": ("client_key",),
    "client_key": ("client_certificate",),
}


class Layer(NamedTuple):
    """Values from one source: dotted keys such as ``export.logs.endpoint``, raw as they were found."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    """For each key what to call its place in a message, such as ``OTEL_EXPORTER_OTLP_TIMEOUT``."""
    problems: Sequence[str] = ()
    """What could not be read; kept, so that it hides nothing that is wrong elsewhere."""
    unread: frozenset[str] = frozenset()
    """The keys that ``problems`` are about; an empty one stands for all that the source has."""
    warnings: Sequence[str] = ()
    """What is probably a mistake, and stops nothing."""


class Places(NamedTuple):
    """Where the values of a configuration came from."""

    origins: Mapping[str, str]

    def name(self, problem: str) -> str:
        """Put the variable, the flag or the file in place of the key that a problem begins with."""
        key, separator, rest = problem.partition(": ")
        return f"{self.origins.get(key, key)}{separator}{rest}"

    @contextmanager
    def named(self) -> Iterator[None]:
        """Name the places in the problems of a ConfigError that passes through."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError([self.name(problem) for problem in error.problems]) from error


class Loaded(NamedTuple, Generic[S]):
    """A configuration, and what to say of it."""

    configuration: S
    places: Places
    warnings: tuple[str, ...] = ()


def file_layer(path: Path) -> Layer:
    """Read a TOML file; its problems name the file, and the line where the syntax is wrong."""
    try:
        document = tomllib.loads(read_file(path, _FILE_BYTES).decode("utf-8-sig"))  # editors put a mark there
        values = dict(_flatten(document, ()))
    except OSError as error:
        if error.errno == errno.EFBIG:
            return _unreadable(f"{path}: is larger than 1 MiB, so it is no configuration; name another file")
        return _unreadable(f"{path}: cannot be read ({error.strerror}); name a readable file")
    except UnicodeDecodeError as error:
        return _unreadable(f"{path}: is not UTF-8 at byte {error.start}; save it as UTF-8")
    except tomllib.TOMLDecodeError as error:
        return _unreadable(f"{path}: is not valid TOML: {error}")
    except (ValueError, RecursionError):  # what the parser itself lets through
        return _unreadable(f"{path}: has a number too long or a table nested too deep to be read; shorten it")
    return Layer(values, {key: f"{path}: {shown_key(key)}" for key in values})


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return Path("/")


# Taken once: a daemon changes to another directory, and shall find the same files as before.
STARTED_IN = _working_directory()


def load(
    model: type[S],
    layers: Iterable[Layer],
    check: Callable[[S], Iterable[str]] | None = None,
    started_in: Path = STARTED_IN,
) -> Loaded[S]:
    """Merge the layers, validate, and check; raises ConfigError with every problem of all three.

    ``check`` returns the problems of values that are valid by themselves, each beginning with its key, or raises
    them as ConfigError. It is also given what is left of a configuration when keys that are wrong are taken out,
    so that everything is said at once. Relative paths of files that are read are taken from ``started_in``.
    """
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    warnings: list[str] = []
    wrong: set[str] = set()
    for layer in layers:
        problems += layer.problems
        warnings += layer.warnings
        wrong |= layer.unread
        for key, value in layer.values.items():
            origins[key] = layer.origins[key]
            _put(tree, key.split("."), value)
    configuration, details = _validate(model, tree, Context(started_in, origins))
    problems += [complaint(model, detail, origins) for detail in details]
    wrong |= {".".join(str(part) for part in detail["loc"] if isinstance(part, str)) for detail in details}
    places = Places(origins)
    if check is not None and not wrong & _EVERYTHING:
        found = _checked(check, configuration)
        problems += [places.name(problem) for problem in found if not _follows(problem, wrong)]
    if problems:
        raise ConfigError(list(dict.fromkeys([*problems, *warnings])))  # what is misspelt may be why
    return Loaded(configuration, places, tuple(warnings))


def _unreadable(problem: str) -> Layer:
    return Layer({}, {}, [problem], _EVERYTHING)


def _validate(model: type[S], tree: dict[str, Any], context: Context) -> tuple[S, list[ErrorDetails]]:
    """Validate; what is wrong is taken out, so that there is a configuration of the rest in any case."""
    found: list[ErrorDetails] = []
    while True:
        try:
            return model.model_validate(tree, context=context), found
        except ValidationError as error:
            details = error.errors()
            found = found or details
            for detail in details:
                _take_out(tree, detail["loc"])


def _take_out(tree: dict[str, Any], location: Sequence[int | str]) -> None:
    """Remove the value at a location; where that is inside of a list, all of the list."""
    for part in location[:-1]:
        inner = tree.get(str(part))
        if not isinstance(inner, dict):
            tree.pop(str(part), None)
            return
        tree = inner
    tree.pop(str(location[-1]), None)


def _checked(check: Callable[[S], Iterable[str]], configuration: S) -> list[str]:
    try:
        return list(check(configuration))
    except ConfigError as error:
        return list(error.problems)


def _follows(problem: str, wrong: Iterable[str]) -> bool:
    """Whether a problem may be there only because another key is wrong."""
    key = problem.partition(": ")[0]
    reads = _READS.get(key.rpartition(".")[2], ())
    return any(one == key or one.rpartition(".")[2] in reads for one in wrong)


def _flatten(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterable[tuple[str, Any]]:
    for name, value in table.items():
        here = (*path, name)
        if isinstance(value, dict) and value and here not in _VALUE_TABLES:
            yield from _flatten(value, here)
        else:
            yield ".".join(here), value


def _put(tree: dict[str, Any], path: list[str], value: object) -> None:
    """Put a value in its section; where a section is a value itself, that is what is complained of.

    An empty table is kept, so that a misspelt one is refused; one that is a section leaves what the section has.
    """
    *sections, last = path
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            return
        tree = inner
    adds_nothing = value == {} and tuple(path) not in _VALUE_TABLES and isinstance(tree.get(last), dict)
    if not adds_nothing:
        tree[last] = value
