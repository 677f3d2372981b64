"""Write the Grafana dashboards of examples/grafana: what they show is said here, once.

``tools/dashboards.py`` writes the files; with ``--check`` it fails if they are not what would be written.
A panel is a title, a unit of Grafana and PromQL with its legends. ``FAILED`` is what counts as a failure: metrics
cannot tell superseded attempts from others that were given up, so ``abandoned`` is none.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "grafana"
FAILED = 'otel_connect_outcome!~"established|abandoned|pending"'
ABANDONED = 'otel_connect_outcome="abandoned"'
_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 2


class Panel(NamedTuple):
    """One graph: its curves by legend; ``help`` says how to read it."""

    title: str
    unit: str
    curves: dict[str, str]
    help: str
    kind: str = "timeseries"


class Variable(NamedTuple):
    """What a viewer can choose: the values of a label."""

    name: str
    label: str
    metric: str


class Dashboard(NamedTuple):
    """One page."""

    uid: str
    title: str
    variables: tuple[Variable, ...]
    panels: tuple[Panel, ...]

    @property
    def name(self) -> str:
        """What its files are called, without an ending."""
        return self.uid.removeprefix("otel-connect-")


_ATTEMPTS = "otel_connect_attempts_total"
_SERVER = Variable("server", "server_address", _ATTEMPTS)
_PROGRAM = Variable("program", "process_executable_name", _ATTEMPTS)
_INSTANCE = Variable("agent", "instance", "otel_connect_agent_build_info")

_TO = 'server_address=~"$server"'
_BY = 'process_executable_name=~"$program"'
_OF = 'instance=~"$agent"'


def _rate(metric: str, *matchers: str) -> str:
    return f"rate({metric}{{{', '.join(matchers)}}}[$__rate_interval])"


def _quantile(share: float, by: str, *matchers: str) -> str:
    buckets = _rate("otel_connect_attempt_duration_seconds_bucket", 'otel_connect_outcome="established"', *matchers)
    return f"histogram_quantile({share}, sum by (le, {by}) ({buckets}))"


DESTINATIONS = Dashboard(
    "otel-connect-destinations",
    "otel-connect: destinations",
    (_SERVER,),
    (
        Panel(
            "Attempts by outcome",
            "cps",
            {"{{otel_connect_outcome}}": f"sum by (otel_connect_outcome) ({_rate(_ATTEMPTS, _TO)})"},
            "Every TCP connect attempt to the chosen servers, by what became of it.",
        ),
        Panel(
            "Share of failures",
            "percentunit",
            {
                "{{server_address}}:{{server_port}}": "sum by (server_address, server_port)"
                f" ({_rate(_ATTEMPTS, _TO, FAILED)}) / sum by (server_address, server_port) ({_rate(_ATTEMPTS, _TO)})"
            },
            "Of all attempts to a server, how many failed; without those that were given up.",
        ),
        Panel(
            "Failures by error",
            "cps",
            {
                "{{server_address}} {{error_type}}": "sum by (server_address, error_type)"
                f" ({_rate(_ATTEMPTS, _TO, FAILED)})"
            },
            "connection_refused: nobody listens. timed_out: no answer at all. access_denied: this host forbids it.",
        ),
        Panel(
            "Worst destinations in the last hour",
            "short",
            {
                "{{server_address}}:{{server_port}}": "topk(10, sum by (server_address, server_port)"
                f" (increase({_ATTEMPTS}{{{_TO}, {FAILED}}}[1h])) > 0)"
            },
            "Failures, most first.",
            "bargauge",
        ),
        Panel(
            "Time to connect, 99 of 100",
            "s",
            {"{{server_address}}": _quantile(0.99, "server_address", _TO)},
            "A step at 1, 2, 3, 4, 5 or 7 s (before Linux 6.5: 1, 3 or 7 s) is a SYN that had to be sent again.",
        ),
        Panel(
            "Time to connect, half",
            "s",
            {"{{server_address}}": _quantile(0.5, "server_address", _TO)},
            "What most attempts take: mainly the way there and back.",
        ),
    ),
)

PROGRAMS = Dashboard(
    "otel-connect-programs",
    "otel-connect: programs",
    (_PROGRAM,),
    (
        Panel(
            "Attempts by program",
            "cps",
            {"{{process_executable_name}}": f"sum by (process_executable_name) ({_rate(_ATTEMPTS, _BY)})"},
            "Who connects how often.",
        ),
        Panel(
            "Failures by program",
            "cps",
            {
                "{{process_executable_name}} {{error_type}}": "sum by (process_executable_name, error_type)"
                f" ({_rate(_ATTEMPTS, _BY, FAILED)})"
            },
            "Much of one program is a retry storm.",
        ),
        Panel(
            "Who fails to reach what",
            "short",
            {
                "{{process_executable_name}} → {{server_address}}:{{server_port}}": "topk(10, sum by"
                " (process_executable_name, server_address, server_port)"
                f" (increase({_ATTEMPTS}{{{_BY}, {FAILED}}}[1h])) > 0)"
            },
            "Failures in the last hour, most first.",
            "bargauge",
        ),
        Panel(
            "Attempts by service",
            "cps",
            {"{{job}}": f"sum by (job) ({_rate(_ATTEMPTS, _BY)})"},
            "The service that a program belongs to, as it or its container says; else unknown_service:program.",
        ),
        Panel(
            "Time to connect, 99 of 100",
            "s",
            {"{{process_executable_name}}": _quantile(0.99, "process_executable_name", _BY)},
            "As the program sees it, beginning with its connect().",
        ),
        Panel(
            "Given up",
            "cps",
            {"{{process_executable_name}}": f"sum by (process_executable_name) ({_rate(_ATTEMPTS, _BY, ABANDONED)})"},
            "Closed before an answer: by a timeout of the program, or because another attempt was faster.",
        ),
    ),
)

AGENT = Dashboard(
    "otel-connect-agent",
    "otel-connect: agent health",
    (_INSTANCE,),
    (
        Panel(
            "Attempts seen and delivered",
            "cps",
            {
                "seen": f"sum({_rate('otel_connect_agent_attempts_seen_total', _OF)})",
                "{{otel_connect_signal}} delivered": "sum by (otel_connect_signal)"
                f" ({_rate('otel_connect_agent_attempts_exported_total', _OF)})",
            },
            "In the long run logs delivered are attempts seen; spans are fewer by design.",
        ),
        Panel(
            "Waiting to be sent",
            "short",
            {"{{otel_connect_signal}}": f"sum by (otel_connect_signal) (otel_connect_agent_attempts_queued{{{_OF}}})"},
            "Grows while the backend is down.",
        ),
        Panel(
            "Given up",
            "cps",
            {
                "{{otel_connect_signal}} {{otel_connect_reason}}": "sum by (otel_connect_signal, otel_connect_reason)"
                f" ({_rate('otel_connect_agent_attempts_dropped_total', _OF)})"
            },
            "sampled is by design, also kernel_throttled in a flood; everything else is a loss.",
        ),
        Panel(
            "Backend takes requests",
            "short",
            {"{{instance}} {{otel_connect_signal}}": f"otel_connect_agent_export_healthy{{{_OF}}}"},
            "1: yes. 0: see the message on /status.",
        ),
        Panel(
            "Spool",
            "bytes",
            {
                "{{instance}} used": f"otel_connect_agent_spool_usage_bytes{{{_OF}}}",
                "{{instance}} limit": f"otel_connect_agent_spool_limit_bytes{{{_OF}}}",
            },
            "What waits on disk. At the limit the oldest is given up.",
        ),
        Panel(
            "Age of the oldest record that waits",
            "s",
            {"{{instance}}": f"otel_connect_agent_spool_oldest_age_seconds{{{_OF}}}"},
            "Seconds, while all is well.",
        ),
        Panel(
            "Delay of delivery, 99 of 100",
            "s",
            {
                "{{otel_connect_signal}}": "histogram_quantile(0.99, sum by (le, otel_connect_signal)"
                f" ({_rate('otel_connect_agent_export_delay_seconds_bucket', _OF)}))"
            },
            "From handing a request over to its acceptance.",
        ),
        Panel(
            "Kernel side",
            "percentunit",
            {
                "ring {{instance}}": f"otel_connect_agent_ring_usage_bytes{{{_OF}}}"
                " / otel_connect_agent_ring_limit_bytes",
                "{{otel_connect_map}} {{instance}}": f"otel_connect_agent_map_entries{{{_OF}}}"
                " / otel_connect_agent_map_limit",
            },
            "How full the stores of the probes are; at 1 attempts are only counted, or lost and counted.",
        ),
        Panel(
            "Counted without an attribute",
            "cps",
            {"{{instance}}": f"sum by (instance) ({_rate('otel_connect_agent_metrics_overflowed_total', _OF)})"},
            "More destinations than metrics can tell apart; totals stay exact.",
        ),
        Panel(
            "Seconds since the loop last went round",
            "s",
            {"{{instance}}": f"time() - otel_connect_agent_heartbeat_seconds{{{_OF}}}"},
            "Up to the interval of the metrics; more is a stuck agent, or one that is not heard of any more.",
        ),
    ),
)

DASHBOARDS = (DESTINATIONS, PROGRAMS, AGENT)


def fingerprint(dashboard: Dashboard) -> str:
    """Return a digest of all that a picture shows of it."""
    shown = json.dumps([dashboard.title, dashboard.panels], ensure_ascii=False)
    return f"sha256:{hashlib.sha256(shown.encode()).hexdigest()}"


def render(dashboard: Dashboard) -> str:
    """Return the JSON that Grafana imports."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    choices: list[dict[str, Any]] = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    ]
    choices += [_variable(variable, source) for variable in dashboard.variables]
    page = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["otel-connect"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": choices},
        "panels": [_panel(number, panel, source) for number, panel in enumerate(dashboard.panels)],
    }
    return json.dumps(page, indent=2, ensure_ascii=False) + "\n"


def _variable(variable: Variable, source: dict[str, str]) -> dict[str, Any]:
    return {
        "name": variable.name,
        "type": "query",
        "datasource": source,
        "query": f"label_values({variable.metric}, {variable.label})",
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(number: int, panel: Panel, source: dict[str, str]) -> dict[str, Any]:
    row, column = divmod(number, _COLUMNS)
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": source,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": row * _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": source,
                "expr": query,
                "legendFormat": legend,
                "instant": panel.kind == "bargauge",
            }
            for index, (legend, query) in enumerate(panel.curves.items())
        ],
    }


def main() -> int:
    """Write the files, or compare them; returns the exit code."""
    stale = []
    for dashboard in DASHBOARDS:
        path = FOLDER / f"{dashboard.name}.json"
        text = render(dashboard)
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        print(f"{', '.join(stale)}: not what tools/dashboards.py writes; run it", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
