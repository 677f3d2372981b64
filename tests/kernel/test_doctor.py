"""`otel-connect doctor`: what it says is what `run` then does."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from otel_connect.capture.doctor import examine, optional
from otel_connect.capture.hooks import ProbeSet, Sight
from otel_connect.config import EnrichConfig
from otel_connect.errors import ProbeError
from tests.support import refused_call
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
    # On a host that allows fexit its set is used, which misses least.
    fexit = "ok      probes compile, load and attach (fexit)" in lines
    unseen = {
        "not those of addresses that the kernel cannot read",
        "not those of sendto() with MSG_FASTOPEN and of addresses that the kernel cannot read",
    }
    if not fexit:
        assert "ok      probes compile, load and attach (typed)" in lines
        unseen = {"not those of 32-bit programs, of sendto() with MSG_FASTOPEN, and of files that only a ring has"}
    [lacking] = [line for line in lines if not line.startswith("ok")]
    assert lacking.removeprefix("without failures before a SYN: ") in unseen
    assert "ok      names of peers" in lines


SUBJECTS = [
    "configuration",
    *("user namespace", "capabilities", "lockdown", "tracefs", "bpf()", "type information (BTF)"),
    *("probes compile, load and attach", "processes of other users", "names of peers"),
]
UNTRIED = ": not tried, because it needs what is WRONG above"
ORDINARY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
MISSING = "not permitted to load probes: {} missing; run as root (sudo), or grant CAP_BPF and CAP_PERFMON"
NO_TRACEFS = "tracefs is not mounted; mount it with: mount -t tracefs nodev /sys/kernel/tracing"


def without(capabilities: str) -> tuple[str, ...]:
    bounds = ",".join(f"-{name}" for name in capabilities.split(","))
    return ("setpriv", f"--bounding-set={bounds}", f"--inh-caps={bounds}")


def only(*capabilities: str) -> tuple[str, ...]:
    """Be root with the capabilities of a container engine and these."""
    engine = ["chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "net_bind_service"]
    kept = ",".join(["-all", *(f"+{name}" for name in (*engine, "net_raw", "sys_chroot", "setfcap", *capabilities))])
    return ("setpriv", f"--bounding-set={kept}", f"--inh-caps={kept}")


def mounted(*mounts: str) -> tuple[str, ...]:
    script = " && ".join([*(f"mount {mount}" for mount in mounts), 'exec "$0" "$@"'])
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", script)


def tracefs_hidden() -> tuple[str, ...]:
    debugfs = ["-t tmpfs none /sys/kernel/debug"] if Path("/sys/kernel/debug").is_dir() else []
    return mounted("-t tmpfs none /sys/kernel/tracing", *debugfs)


# What each machine or container lacks: which lines say so, what could not be tried, what records would be without.
LACKING: dict[str, tuple[tuple[str, ...], int, dict[str, str], set[str], set[str]]] = {
    "an ordinary user": (
        ORDINARY,
        77,
        {
            "capabilities": MISSING.format("CAP_BPF and CAP_PERFMON"),
            "tracefs": "not permitted to read /sys/kernel/tracing; run as root, or grant CAP_DAC_READ_SEARCH too",
        },
        {"bpf()", "probes compile, load and attach"},
        {"processes of other users"},
    ),
    "root in a container": (
        only(),
        77,
        {"capabilities": MISSING.format("CAP_BPF and CAP_PERFMON")},
        {"bpf()", "probes compile, load and attach"},
        {"processes of other users"},
    ),
    "CAP_BPF alone": (
        only("bpf"),
        77,
        {"capabilities": MISSING.format("CAP_PERFMON")},
        {"probes compile, load and attach"},
        {"processes of other users"},
    ),
    "CAP_PERFMON alone": (
        only("perfmon"),
        77,
        {"capabilities": MISSING.format("CAP_BPF")},
        {"bpf()", "probes compile, load and attach"},
        {"processes of other users"},
    ),
    "a rootless container": (
        (*ORDINARY, "unshare", "--user", "--map-root-user"),
        77,
        {
            "user namespace": "this is a user namespace (a rootless container?), whose capabilities",
            "tracefs": "not permitted to read /sys/kernel/tracing",
        },
        {"capabilities", "bpf()", "probes compile, load and attach"},
        {"processes of other users"},
    ),
    "a user namespace of root": (
        ("unshare", "--user", "--map-root-user"),
        77,
        {"user namespace": "this is a user namespace (a rootless container?), whose capabilities"},
        {"capabilities", "bpf()", "probes compile, load and attach"},
        {"processes of other users"},
    ),
    "bpf() refused by seccomp": (
        (sys.executable, refused_call.__file__, "bpf", "EPERM"),
        77,
        {"bpf()": "the kernel refused bpf() although the capabilities are there: a seccomp profile does"},
        {"probes compile, load and attach"},
        set(),
    ),
    "perf_event_open() refused by seccomp": (
        (sys.executable, refused_call.__file__, "perf_event_open", "EPERM"),
        77,
        {"probes compile, load and attach": "the kernel refused the probes (perf_event_open"},
        set(),
        set(),
    ),
    "no bpf() in the kernel": (
        (sys.executable, refused_call.__file__, "bpf", "ENOSYS"),
        78,
        {"bpf()": "there is no bpf() here: use a kernel with CONFIG_BPF_SYSCALL"},
        {"probes compile, load and attach"},
        set(),
    ),
    "no tracefs": (tracefs_hidden(), 78, {"tracefs": NO_TRACEFS}, {"probes compile, load and attach"}, set()),
    "no tracefs and no capabilities": (
        (*tracefs_hidden(), *only()),
        77,
        {"capabilities": MISSING.format("CAP_BPF and CAP_PERFMON"), "tracefs": NO_TRACEFS},
        {"bpf()", "probes compile, load and attach"},
        {"processes of other users"},
    ),
    "no BTF": (
        mounted("-t tmpfs none /sys/kernel/btf"),
        78,
        {"type information (BTF)": "/sys/kernel/btf/vmlinux cannot be read (No such file or directory)"},
        {"probes compile, load and attach"},
        set(),
    ),
}


@pytest.mark.parametrize("name", LACKING)
def test_the_report_is_whole_and_does_not_contradict_itself(name: str) -> None:
    before, exit_code, wrong, untried, lacking = LACKING[name]
    code, lines = doctor(*before)
    said = {line[8:].partition(": ")[0]: (line[:8].rstrip(), line[8:].partition(": ")[2]) for line in lines}
    assert list(said) == SUBJECTS
    states = {subject: state for subject, (state, _) in said.items()}
    expected = dict.fromkeys(SUBJECTS, "ok") | dict.fromkeys(lacking, "without")
    assert states == expected | dict.fromkeys(untried, "unknown") | dict.fromkeys(wrong, "WRONG")
    assert all(said[subject][1].startswith(problem) for subject, problem in wrong.items()), lines
    assert all(f"{subject}{UNTRIED}" in "\n".join(lines) for subject in untried)
    assert code == exit_code
    assert ("although the capabilities are there" in "\n".join(lines)) is (name == "bpf() refused by seccomp")


@pytest.mark.parametrize("name", LACKING)
def test_run_ends_with_the_code_and_the_words_of_the_first_that_is_wrong(name: str) -> None:
    before, exit_code, wrong, _, _ = LACKING[name]
    ended = subprocess.run(
        [*before, str(COMMAND), "run", "--duration", "1"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"OTEL_CONNECT_LISTEN": "off"},
    )
    assert ended.returncode == exit_code
    (line,) = ended.stderr.splitlines()
    first = next(subject for subject in SUBJECTS if subject in wrong)
    assert line.startswith(f"otel-connect: {wrong[first]}"), line


def test_lockdown(tmp_path: Path) -> None:
    (tmp_path / "lockdown").write_text("none integrity [confidentiality]\n")
    code, lines = doctor(*mounted(f"--bind {tmp_path} /sys/kernel/security"))
    assert code == 77
    (wrong,) = (line for line in lines if line.startswith("WRONG"))
    assert wrong.startswith("WRONG   lockdown: this kernel is locked down (confidentiality)")


def test_no_proc_is_one_line() -> None:
    code, lines = doctor(*mounted("-t tmpfs none /proc"))
    assert code == 78
    refusal = "/proc cannot be read (No such file or directory); mount it with: mount -t proc proc /proc"
    assert lines == ["ok      configuration", f"WRONG   capabilities: {refusal}"]


def test_a_configuration_that_run_refuses_is_wrong_and_the_rest_is_said_too(tmp_path: Path) -> None:
    file = tmp_path / "otel-connect.toml"
    file.write_text(
        "[exprt]\n[capture]\nring_bytes = 5000\n"
        "[export]\nendpoint = 'https://h'\ncertificate = '/no/such/ca.pem'\n[serve]\nlisten = '192.0.2.1:80'\n"
    )
    code, lines = doctor(options=("--config", str(file)))
    run = subprocess.run([COMMAND, "run", "--config", file], check=False, capture_output=True, text=True, timeout=60)
    assert code == run.returncode == 2
    wrong = [line for line in lines if line.startswith("WRONG")]
    assert wrong == [line.replace("otel-connect: ", "WRONG   configuration: ") for line in run.stderr.splitlines()]
    assert len(wrong) == 4
    assert any(line.startswith("ok      probes compile, load and attach (") for line in lines)


def test_a_misspelt_variable_is_said_as_run_says_it() -> None:
    ended = subprocess.run(
        [COMMAND, "doctor"],
        check=False,
        capture_output=True,
        text=True,
        timeout=90,
        env=os.environ | {"OTEL_CONNECT_LISTN": "off"},
    )
    assert ended.returncode == 0
    assert ended.stderr == "otel-connect: OTEL_CONNECT_LISTN: no such variable; did you mean OTEL_CONNECT_LISTEN?\n"


def test_names_take_no_capability_of_their_own() -> None:
    kept = "-all,+bpf,+perfmon,+dac_read_search"
    code, lines = doctor("setpriv", f"--bounding-set={kept}", f"--inh-caps={kept}")
    assert code == 0
    assert "ok      names of peers" in lines
    lacking = [line[8:].partition(":")[0] for line in lines if not line.startswith("ok")]
    assert lacking == ["failures before a SYN", "processes of other users"]


@pytest.mark.parametrize(
    ("config", "lacking", "said", "exit_code"),
    [
        (EnrichConfig(), 0, "", 0),
        (EnrichConfig(), 1 << 21, "", 0),
        (EnrichConfig(), 1 << 19, "no OpenTelemetry context", 0),
        (EnrichConfig(), 1 << 19, "no names from their /etc/hosts", 0),
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
    def refuse() -> Sight:
        raise ProbeError("the kernel refused the probes")

    finding = next(one for one in examine(EnrichConfig(), refuse) if one.subject.startswith("probes"))
    assert (str(finding), finding.exit_code) == (
        "WRONG   probes compile, load and attach: the kernel refused the probes",
        78,
    )


@pytest.mark.parametrize(
    ("probes", "drops", "line"),
    [
        (ProbeSet.TYPED, True, "ok      reasons for drops"),
        (ProbeSet.TYPED, False, "without reasons for drops: this kernel gives none; Linux 5.17 and later do"),
        (ProbeSet.LITE, False, "without reasons for drops: none, because of capture.probes"),
    ],
)
def test_whether_there_are_reasons_for_drops(probes: ProbeSet, drops: bool, line: str) -> None:
    found = list(map(str, examine(EnrichConfig(), lambda: Sight(probes, rings=False, drops=drops))))
    assert [one for one in found if "reasons for drops" in one] == [line]
