"""Take one part of ``capture/outcome.py`` after another out, and see for which rows of evidence the outcome is another.

A row that no removal changes would be decided by nothing that can be named.
"""

from pathlib import Path
from types import ModuleType

from tests.support.events import make_event
from tests.support.outcome_cases import CASES

SOURCE = Path(__file__).parents[2] / "otel_connect/capture/outcome.py"
NO_EVIDENCE = {"sk_err": 0, "sk_err_soft": 0, "returned": 0, "socket_state": 0, "shutdown": 0, "flags": 0}
_ERRNOS = (
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "EHOSTUNREACH",
    "ENETUNREACH",
    "EACCES",
    "EHOSTDOWN",
    "ENOPROTOOPT",
)
_UNKNOWN, _ABANDONED = "return Verdict(Outcome.UNKNOWN, None)", "return Verdict(Outcome.ABANDONED, None)"
_BY_ERRNO = "return Verdict(_BY_SOCKET_ERROR.get(number, Outcome.LOCAL_ERROR), number)"

REMOVALS = (
    ("return _ESTABLISHED", _UNKNOWN),
    ("return Verdict(Outcome.PENDING, None)", _UNKNOWN),
    (f"return _returned(event)\n    {_UNKNOWN}", f"return _returned(event)\n    {_ABANDONED}"),
    *((f"errno.{name}: Outcome.", f"-errno.{name}: Outcome.") for name in (*_ERRNOS, "ECONNABORTED")),
    (f"    if number:\n        {_BY_ERRNO}", "    if number in _BY_SOCKET_ERROR:\n        " + _BY_ERRNO),
    ("event.sk_err or max(event.sk_err_soft, 0)", "event.sk_err"),
    ("event.sk_err or max(event.sk_err_soft, 0)", "max(event.sk_err_soft, 0) or event.sk_err"),
    ("max(event.sk_err_soft, 0)", "event.sk_err_soft"),
    ("if not event.flags & _LOCKED:", "if False:"),
    ("if event.socket_state == _SS_UNCONNECTED and", "if False and"),
    ("if event.sk_err_soft < 0 and event.family == AF_INET6:", "if False:"),
    (_ABANDONED, _UNKNOWN),
    ("if number <= 0:", "if False:"),
    ("if event.hooks & _SYN_SENT and not event.hooks & _END:", "if False:"),
    ("if number in _AMBIGUOUS:", "if False:"),
    (f"        {_UNKNOWN}\n        {_BY_ERRNO}", f"        {_UNKNOWN}\n        {_UNKNOWN}"),
    ("if number in _DENIALS:", "if False:"),
    ("if number == errno.ECONNREFUSED and event.hooks & _SYN_SENT:", "if False:"),
    ("return Verdict(Outcome.LOCAL_ERROR, number)", _UNKNOWN),
)
"""What is there once, and what it becomes."""


def changed(was: str, becomes: str) -> set[str]:
    """Return the rows whose outcome is another without something; raises AssertionError if it is not there once."""
    text = SOURCE.read_text(encoding="utf-8")
    assert text.count(was) == 1, was
    module = ModuleType("outcome")
    exec(compile(text.replace(was, becomes), SOURCE, "exec"), module.__dict__)  # noqa: S102 - the module is made of it
    verdicts = {case.name: module.decide(make_event(**{**NO_EVIDENCE, **case.evidence})) for case in CASES}
    return {case.name for case in CASES if verdicts[case.name] != (case.outcome, case.errno)}
