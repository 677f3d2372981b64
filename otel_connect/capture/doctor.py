"""What this machine and this process have of what the agent needs, and what it does without; for people to read."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from otel_connect.capture import preflight
from otel_connect.capture.hooks import Sight
from otel_connect.capture.privileges import CAPABILITIES
from otel_connect.config import EnrichConfig
from otel_connect.errors import ConfigError, OtelConnectError

_PROBES = "probes compile, load and attach"


class Finding(NamedTuple):
    """One thing that was looked at, or could not be."""

    subject: str
    problem: str
    """What is wrong and what to do, or what is missing without it; empty when all is well."""
    exit_code: int
    """What ``run`` would end with for it; 0 when it goes on."""
    unknown: bool = False
    """It could not be looked at, and ``problem`` says why."""

    def __str__(self) -> str:
        """Write it as a line: ``ok``, ``without``, ``unknown`` or ``WRONG``, and why."""
        state = "unknown" if self.unknown else "WRONG" if self.exit_code else "without" if self.problem else "ok"
        return f"{state:8}{self.subject}{': ' if self.problem else ''}{self.problem}"


def of_configuration(problems: Iterable[str]) -> list[Finding]:
    """Say what of the configuration ``run`` would refuse to start with; one line that all is well for nothing."""
    wrong = [Finding("configuration", problem, ConfigError.exit_code) for problem in problems]
    return wrong or [Finding("configuration", "", 0)]


def examine(config: EnrichConfig, attach: Callable[[], Sight]) -> list[Finding]:
    """Look at everything in turn; ``attach`` loads the probes for a moment and says what they see.

    It raises ProbeError when they cannot be loaded. What needs something that is missing is not tried: its refusal
    would be taken for a second fault.
    """
    try:
        effective = preflight.effective_capabilities()
    except OtelConnectError as error:
        return [Finding("capabilities", str(error), error.exit_code)]
    namespace = _tried("user namespace", lambda: preflight.check_user_namespace(preflight.USER_NAMESPACE))
    if namespace.exit_code:
        effective = 0  # those of another user namespace are none here
    found = [
        namespace,
        _untried("capabilities")
        if namespace.exit_code
        else _tried("capabilities", lambda: preflight.check_capabilities(effective)),
        _tried("lockdown", lambda: preflight.check_lockdown(preflight.LOCKDOWN)),
        _tried("tracefs", lambda: preflight.check_tracefs(preflight.TRACEFS)),
        _tried("bpf()", preflight.check_bpf) if preflight.may_call_bpf(effective) else _untried("bpf()"),
        _tried("type information (BTF)", preflight.read_btf),
    ]
    wrong = any(finding.exit_code for finding in found)
    found += [_untried(_PROBES)] if wrong else _attached(attach)
    return [*found, *optional(config, effective)]


def _attached(attach: Callable[[], Sight]) -> Iterator[Finding]:
    try:
        sight = attach()
    except OtelConnectError as error:
        yield Finding(_PROBES, str(error), error.exit_code)
        return
    yield Finding(f"{_PROBES} ({sight.probes})", "", 0)
    yield Finding("failures before a SYN", sight.unseen, 0)
    yield Finding("reasons for drops", sight.without_reasons, 0)


def optional(config: EnrichConfig, effective: int) -> Iterator[Finding]:
    """Say what is missing on records for want of a capability in a mask of effective ones, or because it is off."""
    lacks = {name for name, number in CAPABILITIES.items() if not effective >> number & 1}
    yield _without(
        "processes of other users",
        "CAP_SYS_PTRACE" in lacks,
        "no CAP_SYS_PTRACE, so no OpenTelemetry context that they publish, no names from their /etc/hosts, and nothing"
        " that the kernel could not tell",
    )
    yield _without("names of peers", not config.names, "switched off by enrich.names")
    if config.conntrack:
        missing = "CAP_NET_ADMIN" in lacks
        yield Finding(
            "translated addresses",
            "CAP_NET_ADMIN is missing; grant it, or leave out enrich.conntrack" if missing else "",
            77 if missing else 0,
        )


def _tried(subject: str, step: Callable[[], object]) -> Finding:
    try:
        step()
    except OtelConnectError as error:
        return Finding(subject, str(error), error.exit_code)
    return Finding(subject, "", 0)


def _untried(subject: str) -> Finding:
    return Finding(subject, "not tried, because it needs what is WRONG above", 0, unknown=True)


def _without(subject: str, missing: bool, problem: str) -> Finding:  # noqa: FBT001 - what was found, not a switch
    return Finding(subject, problem if missing else "", 0)
