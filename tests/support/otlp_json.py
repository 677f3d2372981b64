"""OTLP JSON, as the collector's file exporter and the agent write it, as plain values."""

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

Fields = dict[str, Any]

_BEGINNING = re.compile(r'(?=\{"resource(?:Logs|Metrics|Spans)":)')
"""Where a document begins: in a string of one the quotation marks would be escaped."""


class JsonLines:
    """The documents of a growing file of JSON lines, each read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._documents: list[Fields] = []

    def documents(self) -> list[Fields]:
        """Return all documents whose line is complete."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                fresh = file.read()
            complete = fresh[: fresh.rfind(b"\n") + 1]
            self._offset += len(complete)
            for line in complete.splitlines():
                self._documents += _documents_of_line(line.decode())
        return self._documents


def log_records(documents: Iterable[Fields]) -> list[Fields]:
    """Return every log record; `attributes`, `resource`, `scope` and `body` are plain values."""
    return list(_records(documents, "Logs", "logRecords"))


def spans(documents: Iterable[Fields]) -> list[Fields]:
    """Return every span; `attributes`, `resource` and `scope` are plain values."""
    return list(_records(documents, "Spans", "spans"))


def data_points(documents: Iterable[Fields]) -> list[Fields]:
    """Return every data point, with the `name`, `unit` and `kind` of its metric."""
    return [point for metric in _records(documents, "Metrics", "metrics") for point in _points(metric)]


def _documents_of_line(line: str) -> Iterator[Fields]:
    # The exporter writes a document and its line end in steps; one killed between them leaves a piece of a line that
    # its next run continues with another document. A piece of a document was never acknowledged: it is no document.
    *interrupted, last = _BEGINNING.split(line)
    for part in interrupted:
        with suppress(json.JSONDecodeError):
            yield json.loads(part)
    yield json.loads(last)


def _records(documents: Iterable[Fields], signal_name: str, leaf: str) -> Iterator[Fields]:
    for document in documents:
        for owner in document.get(f"resource{signal_name}", []):
            resource = _attributes(owner.get("resource", {}).get("attributes", []))
            for scoped in owner.get(f"scope{signal_name}", []):
                scope = {**_plain(scoped.get("scope", {})), "schemaUrl": scoped.get("schemaUrl", "")}
                for record in scoped.get(leaf, []):
                    yield {"attributes": {}, **_plain(record), "resource": resource, "scope": scope}


def _points(metric: Fields) -> Iterator[Fields]:
    kinds = {"gauge", "sum", "histogram", "exponentialHistogram", "summary"}
    [kind] = kinds & metric.keys()
    about = {key: metric[key] for key in metric.keys() - kinds - {"attributes"}}
    about |= {key: value for key, value in metric[kind].items() if key != "dataPoints"}
    for point in metric[kind].get("dataPoints", []):
        yield {"unit": "", "isMonotonic": False, "attributes": {}, **about, "kind": kind, **point}


def _plain(fields: Fields) -> Fields:
    """Return OTLP JSON fields as values: attributes, and 64-bit numbers, which JSON has as strings."""
    return {_NAMES.get(name, name): _field(name, raw) for name, raw in fields.items()}


_NAMES = {"asInt": "value", "asDouble": "value"}
_ATTRIBUTES = {"attributes", "filteredAttributes"}
_INTEGERS = {"asInt", "count", "zeroCount", "bucketCounts"}


def _field(name: str, raw: Any) -> Any:
    match raw:
        case dict():
            return _value(raw) if name == "body" else _plain(raw)
        case list() if name in _ATTRIBUTES:
            return _attributes(raw)
        case list():
            return [_field(name, entry) for entry in raw]
        case str() if name in _INTEGERS or name.endswith("UnixNano"):
            return int(raw)
    return raw


def _attributes(pairs: list[Fields]) -> Fields:
    return {pair["key"]: _value(pair.get("value", {})) for pair in pairs}


def _value(any_value: Fields) -> Any:
    """Return an OTLP AnyValue as a Python value; the empty one is None."""
    if not any_value:
        return None
    [(kind, raw)] = any_value.items()
    return _VALUES[kind](raw)


_VALUES: dict[str, Callable[[Any], Any]] = {
    "stringValue": str,
    "boolValue": bool,
    "intValue": int,
    "doubleValue": float,
    "bytesValue": base64.b64decode,
    "arrayValue": lambda array: [_value(entry) for entry in array.get("values", [])],
    "kvlistValue": lambda pairs: _attributes(pairs.get("values", [])),
}
