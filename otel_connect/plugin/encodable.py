"""Make a batch of the SDK encodable: what OTLP cannot hold is written in the nearest form that it can.

Protobuf refuses a lone surrogate and an integer of more than 64 bits. The SDK's encoder then drops the
attribute, or loses the whole batch when it was a body or a name. Both are values that applications do log:
a file name that is not UTF-8, a large number.

Everything is returned as it came, the same object, unless something in it had to be rewritten; nothing is
changed in place, because other processors see the same records.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar, cast

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, Status

from otel_connect.encode.attributes import valid_text

_T = TypeVar("_T")
_LOWEST, _HIGHEST = -(1 << 63), (1 << 63) - 1


def encodable_value(value: Any) -> Any:
    """Mend one attribute value or body; what is of no type that OTLP knows comes out as it is."""
    match value:
        case str():
            return value if value.isascii() else _text(value)
        case bool() | float() | bytes() | None:
            return value
        case int():
            return value if _LOWEST <= value <= _HIGHEST else str(value)
        case Mapping():
            return _mapping(value)
        case Sequence():
            return _each(value, encodable_value)
    return value


def encodable_logs(batch: Sequence[ReadableLogRecord]) -> Sequence[ReadableLogRecord]:
    """Mend the log records of a batch."""
    owner = _Owners()
    return _each(batch, lambda record: _log_record(record, owner))


def encodable_spans(batch: Sequence[ReadableSpan]) -> Sequence[ReadableSpan]:
    """Mend the spans of a batch."""
    owner = _Owners()
    return _each(batch, lambda span: _span(span, owner))


def encodable_metrics(data: MetricsData) -> MetricsData:
    """Mend everything that was collected."""
    owner = _Owners()

    def of_resource(one: Any) -> Any:
        return _changed(one, resource=owner.resource(one.resource), scope_metrics=_each(one.scope_metrics, of_scope))

    def of_scope(one: Any) -> Any:
        return _changed(one, scope=owner.scope(one.scope), metrics=_each(one.metrics, _metric))

    mended: MetricsData = _changed(data, resource_metrics=_each(data.resource_metrics, of_resource))
    return mended


class _Owners:
    """The resources and scopes of one batch: there are few of them, and each is looked at once."""

    def __init__(self) -> None:
        self._mended: dict[int, Any] = {}

    def resource(self, resource: Resource) -> Resource:
        if id(resource) not in self._mended:
            attributes = _attributes(resource.attributes)
            same = attributes is resource.attributes and resource.schema_url.isascii()
            mended = resource if same else Resource(attributes, _text(resource.schema_url))
            self._mended[id(resource)] = mended
        found: Resource = self._mended[id(resource)]
        return found

    def scope(self, scope: InstrumentationScope | None) -> InstrumentationScope | None:
        if scope is None:
            return None
        if id(scope) not in self._mended:
            parts = scope.name, scope.version, scope.schema_url, scope.attributes
            mended = [encodable_value(part) for part in parts]
            same = all(new is old for new, old in zip(mended, parts, strict=True))
            self._mended[id(scope)] = scope if same else InstrumentationScope(*mended)
        found: InstrumentationScope = self._mended[id(scope)]
        return found


@dataclass(frozen=True, slots=True)
class _MendedRecord:
    """What the encoder reads of a ReadableLogRecord."""

    log_record: Any
    resource: Resource
    instrumentation_scope: InstrumentationScope | None
    dropped_attributes: int


class _MendedLink(NamedTuple):
    """What the encoder reads of a Link."""

    context: SpanContext
    attributes: Any
    dropped_attributes: int


class _MendedEvent(NamedTuple):
    """What the encoder reads of an Event."""

    name: str
    timestamp: int
    attributes: Any
    dropped_attributes: int


@dataclass(frozen=True, slots=True)
class _MendedSpan:
    """What the encoder reads of a ReadableSpan."""

    original: ReadableSpan
    name: str
    resource: Resource
    instrumentation_scope: InstrumentationScope | None
    attributes: Any
    events: Sequence[Any]
    links: Sequence[Any]
    status: Status

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


def _log_record(record: ReadableLogRecord, owner: _Owners) -> ReadableLogRecord:
    log = record.log_record
    names = ("body", "attributes", "severity_text", "event_name")
    values = {name: encodable_value(getattr(log, name)) for name in names}
    resource, scope = owner.resource(record.resource), owner.scope(record.instrumentation_scope)
    if all(values[name] is getattr(log, name) for name in names):
        if resource is record.resource and scope is record.instrumentation_scope:
            return record
    else:
        log = copy(log)
        for name, value in values.items():
            setattr(log, name, value)
    return cast("ReadableLogRecord", _MendedRecord(log, resource, scope, record.dropped_attributes))


def _span(span: ReadableSpan, owner: _Owners) -> ReadableSpan:
    scope = span.instrumentation_scope
    before = (span.name, span.resource, scope, span.attributes, span.events, span.links, span.status)
    after = (
        encodable_value(span.name),
        owner.resource(span.resource),
        owner.scope(scope),
        _attributes(before[3]),
        _each(before[4], _event),
        _each(before[5], _link),
        _status(span.status),
    )
    return span if all(map(_is, after, before)) else cast("ReadableSpan", _MendedSpan(span, *after))


def _status(status: Status) -> Status:
    description = encodable_value(status.description)
    return status if description is status.description else Status(status.status_code, description)


def _event(event: Any) -> Any:
    name, attributes = encodable_value(event.name), _attributes(event.attributes)
    if name is event.name and attributes is event.attributes:
        return event
    return _MendedEvent(name, event.timestamp, attributes, event.dropped_attributes)


def _link(link: Any) -> Any:
    attributes = _attributes(link.attributes)
    if attributes is link.attributes:
        return link
    return _MendedLink(link.context, attributes, link.dropped_attributes)


def _metric(metric: Any) -> Any:
    data = _changed(metric.data, data_points=_each(metric.data.data_points, _data_point))
    texts = {name: encodable_value(getattr(metric, name)) for name in ("name", "description", "unit")}
    return _changed(metric, data=data, **texts)


def _data_point(point: Any) -> Any:
    exemplars = _each(point.exemplars, _exemplar)
    return _changed(point, attributes=_attributes(point.attributes), exemplars=exemplars)


def _exemplar(exemplar: Any) -> Any:
    return _changed(exemplar, filtered_attributes=_attributes(exemplar.filtered_attributes))


def _changed(value: Any, **fields: Any) -> Any:
    """Replace fields of a frozen dataclass, but only those that are not the same object already."""
    different = {name: new for name, new in fields.items() if new is not getattr(value, name)}
    return replace(value, **different) if different else value


def _attributes(attributes: Any) -> Any:
    return _mapping(attributes) if attributes else attributes


def _mapping(mapping: Mapping[Any, Any]) -> Mapping[Any, Any]:
    items = [(encodable_value(key), encodable_value(value)) for key, value in mapping.items()]
    same = all(new[0] is old[0] and new[1] is old[1] for new, old in zip(items, mapping.items(), strict=True))
    return mapping if same else dict(items)


def _each(items: Sequence[_T], mend: Callable[[_T], _T]) -> Sequence[_T]:
    mended = [mend(item) for item in items]
    return items if all(map(_is, mended, items)) else mended


def _is(new: object, old: object) -> bool:
    return new is old


def _text(text: str) -> str:
    mended = valid_text(text)
    return text if mended == text else mended
