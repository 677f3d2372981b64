"""Make a copy of Prometheus rules, or of a Prometheus or Alertmanager configuration, in which time runs faster.

    tools/scale_rules.py 60 <otel-connect.rules.yml >fast.rules.yml

Every window, offset, `for` and interval becomes so many times shorter; names, thresholds and comments stay as they
are. It is for drills and tests: with 60, an alert that needs five minutes needs five seconds. What is measured then
has to come often enough, too: OTEL_METRIC_EXPORT_INTERVAL of the agent and scrape_interval must be well below the
shortest window.
"""

import re
import sys

_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = rf"(\d+)({'|'.join(_MILLISECONDS)})\b"
_PLACES = re.compile(
    rf"(?P<before>\[|\boffset |^\s*(?:- )?(?:for|interval|\w+_interval|group_wait): ){_DURATION}", re.MULTILINE
)


def scaled(text: str, factor: int) -> str:
    """Return the text with every duration divided by a factor; none becomes shorter than a millisecond."""

    def shorter(found: re.Match[str]) -> str:
        milliseconds = int(found[2]) * _MILLISECONDS[found[3]]
        return f"{found['before']}{max(1, milliseconds // factor)}ms"

    return _PLACES.sub(shorter, text)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal() or int(sys.argv[1]) < 1:
        sys.exit("usage: scale_rules.py FACTOR <RULES >FASTER_RULES (a whole number, 1 or more)")
    sys.stdout.write(scaled(sys.stdin.read(), int(sys.argv[1])))
