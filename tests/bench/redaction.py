"""What it costs to take the secrets out of a command line, over the corpus of the tests."""

import shlex
import time
from collections.abc import Sequence
from typing import NamedTuple

from otel_connect.enrich.redact import redact
from tests.bench.figures import table
from tests.bench.plan import Plan
from tests.support.redaction_corpus import harmless_lines, secret_lines

AIM_US = 20


class Redaction(NamedTuple):
    """CPU time of one line in µs, by what is in it."""

    harmless_us: float
    secret_us: float

    def render(self) -> str:
        """Make a table."""
        rows = [("nothing to hide", f"{self.harmless_us:.1f}"), ("a secret", f"{self.secret_us:.1f}")]
        return table((f"redacting a command line takes (at most {AIM_US} are wanted)", "µs"), rows)


def measure_redaction(plan: Plan) -> Redaction:
    """Redact the corpus many times, of which the best counts."""
    secret = [shlex.split(line) for _, _, line in secret_lines()]
    harmless = [shlex.split(line) for line in harmless_lines()]
    return Redaction(_line_us(harmless, plan.repeats), _line_us(secret, plan.repeats))


def _line_us(lines: Sequence[Sequence[str]], repeats: int) -> float:
    times = []
    for _ in range(repeats * 20):
        began = time.thread_time_ns()
        for line in lines:
            redact(line)
        times.append(time.thread_time_ns() - began)
    return min(times) / len(lines) / 1000
