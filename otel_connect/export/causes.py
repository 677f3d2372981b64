"""Why a request got no answer of OTLP, and what to set: a table over what the libraries say.

Pure: what the transports heard in, one line for people out. The line names the option as it was set, by its
variable, by its file and key, or by its flag.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from otel_connect.config import Protocol
from otel_connect.export.answer import Action, Answer, printable
from otel_connect.export.endpoint import Endpoint
from otel_connect.model import Signal

NO_CONNECTION = "no-connection"
NO_HANDSHAKE = "no-handshake"
NO_ANSWER = "no-answer"
CUT_HANDSHAKE = "cut-handshake"
HTTP2_ANSWER = "HTTP/2"
TLS_ANSWER = "TLS-answer"
NO_HTTP = "no-HTTP"
"""What a transport says for these, as the library's words do not tell one from another."""


def explained(answer: Answer, endpoint: Endpoint) -> Answer:
    """Say in words what kept a request from being answered; what is not known here is returned as it came."""
    if answer.action is Action.DELIVERED:
        return answer
    for cause in _CAUSES:
        if endpoint.protocol in cause.protocols and (found := cause.pattern.search(answer.message)):
            action = answer.action if cause.action is None else cause.action
            said = (found[1] or "") if found.re.groups else ""
            return answer._replace(
                action=action,
                message=printable(cause.words(endpoint, said)),
                of_server=True,
                # As one signal would have it for all, and without words that differ from one try to the next.
                trouble=cause.words(replace(endpoint, url=endpoint.server, signal=Signal.LOGS), ""),
            )
    return answer


class _Cause(NamedTuple):
    protocols: frozenset[Protocol]
    pattern: re.Pattern[str]
    """Its group, if there is one, is what the system said."""
    words: Callable[[Endpoint, str], str]
    action: Action | None = None


def _no_tls(endpoint: Endpoint, _: str) -> str:
    return f"{endpoint.place} speaks no TLS; write http:// in {endpoint.name('endpoint')}"


def _tls(endpoint: Endpoint, _: str) -> str:
    return f"{endpoint.place} speaks TLS; write https:// in {endpoint.name('endpoint')}"


def _http1(endpoint: Endpoint, _: str) -> str:
    return f"gRPC met an HTTP/1 answer at port {endpoint.port}: set {endpoint.setting('protocol', 'http/protobuf')}"


def _http2(endpoint: Endpoint, _: str) -> str:
    return f"HTTP met a gRPC answer at port {endpoint.port}: set {endpoint.setting('protocol', 'grpc')}"


def _no_http(endpoint: Endpoint, _: str) -> str:
    return f"something that speaks no HTTP answers at {endpoint.place}; correct {endpoint.name('endpoint')}"


def _no_grpc(endpoint: Endpoint, _: str) -> str:
    return f"something that speaks no gRPC answers at {endpoint.place}; correct {endpoint.name('endpoint')}"


def _cut_handshake(endpoint: Endpoint, _: str) -> str:
    return _closed(endpoint, "during the TLS handshake")


def _closed(endpoint: Endpoint, said: str) -> str:
    remedies = []
    if not endpoint.secure:
        remedies.append(f"if it speaks TLS, write https:// in {endpoint.name('endpoint')}")
    elif endpoint.client_certificate is None:
        remedies.append(f"if it asks for a certificate of the client, set {endpoint.name('client_certificate')}")
    if endpoint.protocol is Protocol.HTTP_PROTOBUF:
        remedies.append(f"if it speaks gRPC, set {endpoint.setting('protocol', 'grpc')}")
    how = "in silence" if said.startswith("Remote end") else said
    rest = "; ".join(remedies) or "look at its log"
    return f"{endpoint.place} closed the connection without an answer ({how}); {rest}"


def _refused(endpoint: Endpoint, said: str) -> str:
    return f"{said}: nothing listens at {endpoint.place}; start the collector, or correct {endpoint.name('endpoint')}"


def _unknown_host(endpoint: Endpoint, said: str) -> str:
    return f"{said}: no address for {endpoint.place}; correct {endpoint.name('endpoint')}, or look at name resolution"


def _no_connection(endpoint: Endpoint, _: str) -> str:
    reason = f"a firewall drops packets, or {endpoint.name('endpoint')} is wrong"
    return f"timed out: no connection to {endpoint.place} within {_limit(endpoint)}; {reason}"


def _no_handshake(endpoint: Endpoint, _: str) -> str:
    reason = f"if it speaks no TLS, write http:// in {endpoint.name('endpoint')}"
    return f"timed out: connected to {endpoint.place}, but no TLS handshake within {_limit(endpoint)}; {reason}"


def _no_answer(endpoint: Endpoint, _: str) -> str:
    reason = "the backend is overloaded or hangs"
    return f"timed out: connected to {endpoint.place}, but no whole answer within {_limit(endpoint)}; {reason}"


def _nothing(endpoint: Endpoint, _: str) -> str:
    reason = "the backend is overloaded, or a firewall drops packets"
    return f"timed out: no answer from {endpoint.place} within {_limit(endpoint)}; {reason}"


def _limit(endpoint: Endpoint) -> str:
    timeout_ms = round(endpoint.timeout_s * 1000)
    return f"{endpoint.timeout_s:g} s ({endpoint.setting('timeout_ms', timeout_ms)})"


def _untrusted(endpoint: Endpoint, said: str) -> str:
    return f"TLS failed: {said} certificate; name the authority of {endpoint.place} by {endpoint.name('certificate')}"


def _client_unknown(endpoint: Endpoint, _: str) -> str:
    files = f"{endpoint.name('client_certificate')} and {endpoint.name('client_key')}"
    return f"TLS failed: {endpoint.place} asks for a certificate of the client; set {files}"


_SAID_LENGTH = 150


def _status(remedy: Callable[[Endpoint], str]) -> Callable[[Endpoint, str], str]:
    """Say what was answered, cut short so that the remedy is never lost behind it, and then the remedy."""

    def words(endpoint: Endpoint, said: str) -> str:
        shown = said if len(said) <= _SAID_LENGTH else f"{said[:_SAID_LENGTH]}…"
        return f"{shown}; {remedy(endpoint)}"

    return words


def _credentials(endpoint: Endpoint) -> str:
    return f"{'correct' if endpoint.headers else 'set'} the credentials in {endpoint.name('headers')}"


def _permission(endpoint: Endpoint) -> str:
    remedy = f"let the credentials in {endpoint.name('headers')} write {endpoint.signal}"
    return f"{remedy}, or correct {endpoint.name('endpoint')}"


def _no_receiver(endpoint: Endpoint) -> str:
    where = endpoint.url.partition("://")[2]
    remedy = f"correct {endpoint.name('endpoint')}, or have the collector receive them"
    return f"nothing receives {endpoint.signal} at {where}: {remedy}"


def _redirect(endpoint: Endpoint) -> str:
    return f"never followed; name the OTLP receiver itself in {endpoint.name('endpoint')}"


def _proxy(endpoint: Endpoint) -> str:
    variable = "HTTPS_PROXY" if endpoint.secure else "HTTP_PROXY"
    return f"correct {variable}, or name {endpoint.place.rpartition(':')[0] or endpoint.place} in NO_PROXY"


def _too_large(_: Endpoint) -> str:
    return "have the backend take larger requests"


def _too_many(endpoint: Endpoint) -> str:
    return f"the backend limits how many {endpoint.signal} it takes; send less, or raise its limit"


def _overloaded(endpoint: Endpoint) -> str:
    return f"the backend of {endpoint.signal} is overloaded or not ready; {_look(endpoint)}"


def _look(endpoint: Endpoint) -> str:
    return f"look at the log of what answers at {endpoint.place}"


def _certificate(endpoint: Endpoint) -> str:
    return f"renew the certificate of {endpoint.place}, or name a host that it is for in {endpoint.name('endpoint')}"


_HTTP = frozenset({Protocol.HTTP_PROTOBUF})
_GRPC = frozenset({Protocol.GRPC})
_LOCAL = "all addresses.*"  # before which stands: failed to connect to
# What HTTP/1 looks like when its fourth byte is taken for the type of a frame: HTTP, <!DO…, <!do…, <HTM…, <htm…
_PAGE = rf"Expected SETTINGS frame.*frame type (?:{'|'.join(str(byte) for byte in b'POoMm')})\b"
_UNTRUSTED = re.compile("(unable to get (?:local )?issuer|self[- ]signed) certificate").pattern
_PLAIN_TO_TLS = re.compile(
    "^HTTP 400: .*(?:Client sent an HTTP request to an HTTPS server"  # Go, and so the collector
    "|plain HTTP request was sent to HTTPS port"  # nginx
    "|speaking plain HTTP to an SSL-enabled server port)"  # Apache
)
_STATUS = re.compile("(?:.*Received http2 header with status: |HTTP )").pattern  # the former by the gRPC library
_ANSWERED: tuple[tuple[re.Pattern[str], Callable[[Endpoint], str]], ...] = (
    (re.compile("^(HTTP 3.*); never followed$"), _redirect),
    (re.compile(f"^({_STATUS}3.*)"), _redirect),
    (re.compile(f"^((?:{_STATUS}401|UNAUTHENTICATED).*)"), _credentials),
    (re.compile(f"^((?:{_STATUS}403|PERMISSION_DENIED).*)"), _permission),
    (re.compile(f"^((?:{_STATUS}(?:404|405|501)|UNIMPLEMENTED).*)"), _no_receiver),
    (
        re.compile("^((?:success with an unreadable body|.*No status received|.*Data frame with END_STREAM).*)"),
        _no_receiver,
    ),
    (re.compile(f"^({_STATUS}407.*|the proxy of the environment: .*)"), _proxy),
    (re.compile(f"^({_STATUS}413.*)"), _too_large),
    (re.compile(f"^({_STATUS}429.*)"), _too_many),
    (re.compile(f"^({_STATUS}50[234].*)"), _overloaded),
    (re.compile("^(answer cut off: .*|the answer was cut in its headers)"), _look),
    (re.compile("^(TLS failed: .*)"), _certificate),
    (re.compile(f"{_LOCAL}((?:Tls|Ssl) handshake failed.*|.*verification check failed.*)"), _certificate),
)
_CAUSES = (
    _Cause(_HTTP, _PLAIN_TO_TLS, _tls, Action.RETRY_UNHEALTHY),
    _Cause(_HTTP, re.compile("^TLS failed: .*(?:WRONG_VERSION_NUMBER|UNKNOWN_PROTOCOL|RECORD_LAYER_FAILURE)"), _no_tls),
    _Cause(_GRPC, re.compile(f"{_LOCAL}handshake failed.*WRONG_VERSION_NUMBER"), _no_tls, Action.RETRY_UNHEALTHY),
    _Cause(_HTTP, re.compile("^TLS failed: .*(?:CERTIFICATE_REQUIRED|BAD_CERTIFICATE)"), _client_unknown),
    _Cause(_HTTP, re.compile(f"^TLS failed: .*{_UNTRUSTED}"), _untrusted),
    _Cause(_GRPC, re.compile(f"{_LOCAL}{_UNTRUSTED}"), _untrusted),
    _Cause(_HTTP, re.compile(f"^{HTTP2_ANSWER}"), _http2, Action.RETRY_UNHEALTHY),
    _Cause(_HTTP, re.compile(f"^{TLS_ANSWER}"), _tls, Action.RETRY_UNHEALTHY),
    _Cause(_HTTP, re.compile(f"^{NO_HTTP}"), _no_http, Action.RETRY_UNHEALTHY),
    _Cause(
        _GRPC,
        re.compile(f"{_LOCAL}(?:http1|{_PAGE}|missing selected ALPN)"),
        _http1,
        Action.RETRY_UNHEALTHY,
    ),
    _Cause(_GRPC, re.compile(f"{_LOCAL}Expected SETTINGS frame"), _no_grpc, Action.RETRY_UNHEALTHY),
    _Cause(_HTTP, re.compile(f"^{NO_CONNECTION}"), _no_connection),
    _Cause(_HTTP, re.compile(f"^{NO_HANDSHAKE}"), _no_handshake),
    _Cause(_HTTP, re.compile(f"^{NO_ANSWER}"), _no_answer),
    _Cause(_GRPC, re.compile(r"^DEADLINE_EXCEEDED: (?:Stream removed \()?Deadline Exceeded"), _nothing),
    _Cause(_HTTP, re.compile("^(Connection refused)"), _refused),
    _Cause(_GRPC, re.compile(f"{_LOCAL}(Connection refused)"), _refused),
    _Cause(_HTTP, re.compile("^((?:Name or service|No address|Temporary failure in name|nodename).*)"), _unknown_host),
    _Cause(_GRPC, re.compile("^UNAVAILABLE: (errors resolving|DNS resolution failed)"), _unknown_host),
    _Cause(_HTTP, re.compile(f"^{CUT_HANDSHAKE}"), _cut_handshake, Action.RETRY),
    _Cause(_GRPC, re.compile(f"{_LOCAL}(?:Handshake read failed|Unwrap failed)"), _cut_handshake, Action.RETRY),
    _Cause(
        _HTTP,
        re.compile("^(Connection reset by peer|Connection aborted|Broken pipe|Remote end closed.*|.*EOF.*)$"),
        _closed,
        Action.RETRY,
    ),
    _Cause(_GRPC, re.compile(f"{_LOCAL}(Connection reset by peer|Socket closed|Broken pipe)"), _closed),
    *(_Cause(_HTTP | _GRPC, pattern, _status(remedy)) for pattern, remedy in _ANSWERED),
)
