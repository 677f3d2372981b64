"""`otel-connect doctor`: what it says is what `run` then does."""

import subprocess
from collections.abc import Sequence

import pytest

from otel_connect.capture.doctor import examine, optional
from otel_connect.config import EnrichConfig
from otel_connect.errors import ProbeError
from tests.support.agent import COMMAND

_ALL = (1 << 41) - 1


def doctor(*before: str, options: Sequence[str] = ()) -> tuple[int, list[str]]:
    ended = subprocess.run(
        [*before, str(COMMAND), "doctor", *options], check=False, capture_output=True, text=True, timeout=90
    )
    assert ended.stderr == ""
    return ended.returncode, ended.stdout.splitlines()


def test_all_is_well_for_root() -> None:
    code, lines = doctor()
    assert code == 0
    assert [line for line in lines if not line.startswith("ok")] == []
    assert "ok      probes compile, load and attach" in lines
    assert "ok      names of peers" in lines


def test_what_is_missing_is_said_with_its_remedy_and_the_code_of_run() -> None:
    bounds = "-sys_admin,-bpf"
    code, lines = doctor("setpriv", f"--bounding-set={bounds}", f"--inh-caps={bounds}")
    assert code == 77
    (wrong, *more) = [line for line in lines if line.startswith("WRONG")]
    assert wrong.startswith("WRONG   capabilities: not permitted to load probes: CAP_BPF missing; run as root")
    assert not [line for line in lines if "attach" in line and line not in more]


def test_names_say_what_they_would_lack() -> None:
    code, lines = doctor("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw")
    assert code == 0
    assert "without names of peers: no CAP_NET_RAW, so none from DNS" in lines


@pytest.mark.parametrize(
    ("config", "lacking", "said", "exit_code"),
    [
        (EnrichConfig(), 0, "", 0),
        (EnrichConfig(), 1 << 21, "only in the agent's own network namespace", 0),
        (EnrichConfig(), 1 << 19, "no OpenTelemetry context", 0),
        (EnrichConfig(names=False), 0, "switched off by enrich.names", 0),
        (EnrichConfig(conntrack=True), 0, "", 0),
        (EnrichConfig(conntrack=True), 1 << 12, "CAP_NET_ADMIN is missing", 77),
    ],
)
def test_each_capability_has_its_own_line(config: EnrichConfig, lacking: int, said: str, exit_code: int) -> None:
    found = list(optional(config, _ALL & ~lacking))
    assert any(said in finding.problem for finding in found) if said else not any(finding.problem for finding in found)
    assert max(finding.exit_code for finding in found) == exit_code


def test_probes_that_do_not_load_are_wrong() -> None:
    def refuse() -> None:
        raise ProbeError("the kernel refused the probes")

    finding = next(one for one in examine(EnrichConfig(), refuse) if one.subject.startswith("probes"))
    assert (str(finding), finding.exit_code) == (
        "WRONG   probes compile, load and attach: the kernel refused the probes",
        78,
    )
