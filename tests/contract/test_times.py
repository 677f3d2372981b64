"""Times and sizes that a page promises are those of the code; that it keeps to them is tested where they are used."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from otel_connect import agent, life, outputs
from otel_connect.capture import throttles
from otel_connect.encode.cardinality import Limits
from otel_connect.enrich import hosts, kubelet, lookups, names, workloads
from otel_connect.export import answer, delay
from otel_connect.export.exporter import OtlpExporter
from otel_connect.export.sender import DEFAULT_BACKOFF
from otel_connect.plugin import delivery, heir
from otel_connect.serve import report

DOCS = Path(__file__).resolve().parents[2] / "docs"
SECOND_NS = 10**9
LOOK_EVERY_S = inspect.signature(OtlpExporter.__init__).parameters["look_every_s"].default

PROMISES: list[tuple[str, str, Any, Any]] = [
    ("operations.md", "503 when it has not for ten seconds", report.STUCK_AFTER_S, 10),
    ("operations.md", "tries again every ten seconds", LOOK_EVERY_S, 10),
    ("troubleshooting.md", "It is tried again every ten seconds", LOOK_EVERY_S, 10),
    ("operations.md", "five seconds, and the balance is printed", outputs._FLUSH_ON_CLOSE_S, 5),
    ("operations.md", "and a minute (a day at the most)", (names._GRACE_S, names._AT_MOST_S), (60, 86_400)),
    ("plugin.md", "`shutdown()` sends for up to five seconds", delivery.LONGEST_FLUSH_S, 5),
    ("plugin.md", "30 s by any other process", heir.LOOK_EVERY_S, 30),
    ("plugin.md", "1 to 30 s with jitter", (DEFAULT_BACKOFF.first_s, DEFAULT_BACKOFF.longest_s), (1, 30)),
    ("reliability.md", "capped at five minutes, or ignored", answer.LONGEST_RETRY_AFTER_S, 300),
    ("reliability.md", "no success within a day", DEFAULT_BACKOFF.expire_s, 86_400),
    ("signals.md", "without an answer in ten seconds", lookups._WAIT_NS, 10 * SECOND_NS),
    ("signals.md", "none has been for five seconds", throttles._QUIET_S, 5),
    ("signals.md", "and again 5 s, 60 s and 600 s later", workloads.LOOK_AGAIN_S, (5, 60, 600)),
    ("signals.md", "duration of a workload, 10,000 in all, of 1,000 workloads", Limits(), (1000, 10_000, 1000)),
    ("architecture.md", "which the agent takes every second", agent._TALLIES_EVERY_S, 1),
    ("signals.md", "for each signal and reason at most once a minute", life._LOSS_EVERY_S, 60),
]  # fmt: skip

UNSAID: list[tuple[str, Any, Any]] = [
    ("a file of hosts is read again", hosts._AGAIN_NS, 2 * SECOND_NS),
    ("the kubelet is asked again", (kubelet.REFRESH_S, kubelet.AT_LEAST_S), (30, 2)),
    ("attempts whose end was missed are looked for", agent._STALE_EVERY_S, 60),
    ("a delay is told apart", delay.BOUNDARIES_S, (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)),
]
"""What no page promises, and is chosen all the same."""


@pytest.mark.parametrize(("page", "words", "is_so", "promised"), PROMISES, ids=[words for _, words, *_ in PROMISES])
def test_a_page_promises_what_is_so(page: str, words: str, is_so: Any, promised: Any) -> None:
    text = re.sub(r"\s+", " ", (DOCS / page).read_text(encoding="utf-8"))
    assert words in text
    assert is_so == promised


@pytest.mark.parametrize(("what", "is_so", "chosen"), UNSAID, ids=[what for what, *_ in UNSAID])
def test_what_was_chosen_stays(what: str, is_so: Any, chosen: Any) -> None:
    assert is_so == chosen, what
