"""Our reader of BTF against bpftool and the compiler, on the running kernel."""

import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from otel_connect.capture.btf import TypeInformation
from otel_connect.capture.offsets import MEMBERS, OPTIONAL, OPTIONAL_FLAGS, find_offsets
from otel_connect.capture.preflight import BTF
from otel_connect.errors import ProbeError

WHERE_IT_RUNS = {"OTC_CALL_NUMBER", "OTC_PREEMPT_COUNT"}
"""How a program finds out whether it runs in a system call: one way on x86, the other on every other machine."""


def switched_off(found: dict[str, int]) -> set[str]:
    return {switch for switch in OPTIONAL if not found[switch]}


def test_every_offset_is_what_the_compiler_makes_of_the_kernels_own_declarations(tmp_path: Path) -> None:
    declarations = subprocess.run(
        ["bpftool", "btf", "dump", "file", BTF, "format", "c"], check=True, capture_output=True, text=True
    ).stdout
    (tmp_path / "vmlinux.h").write_text(declarations)
    types = TypeInformation(BTF.read_bytes())
    found = find_offsets(types)
    off = switched_off(found)
    assert off == WHERE_IT_RUNS - {"OTC_CALL_NUMBER" if platform.machine() == "x86_64" else "OTC_PREEMPT_COUNT"}
    groups = [members for switch, members in OPTIONAL.items() if switch not in off]
    every = MEMBERS | {name: paths for members in groups for name, paths in members.items()}
    claims = [
        f'_Static_assert(__builtin_offsetof(struct {structure}, {path}) == {found[name]}, "{name}");'
        for name, (structure, *paths) in every.items()
        for path in (existing(types, structure, paths),)
    ]
    sizes = {
        "sizeof(struct pt_regs)": "OTC_REGISTERS_BYTES",
        "sizeof(struct upid)": "OTC_UPID_BYTES",
        "pids_cgrp_id": "OTC_PIDS_CONTROLLER",
    }
    claims += [f'_Static_assert({what} == {found[name]}, "{name}");' for what, name in sizes.items()]
    source = tmp_path / "claims.c"
    flags = [(name, where) for found_flags in OPTIONAL_FLAGS.values() for name, where in found_flags.items()]
    asked = [f"{is_flag(*where, found[f'OFF_{name}'], found[f'BIT_{name}'])}" for name, where in flags]
    claims.append(f"int main(void) {{ return !({' && '.join(asked)}); }}")
    source.write_text('#include "vmlinux.h"\n' + "\n".join(claims))
    program = tmp_path / "claims"
    compiled = subprocess.run(["gcc", "-w", "-o", program, source], check=False, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    subprocess.run([program], check=True)
    assert len(claims) == len(every) + len(sizes) + 1
    helpers = {"OTC_TYPED_TASK": "BPF_FUNC_get_current_task_btf", "OTC_TASK_REGISTERS": "BPF_FUNC_task_pt_regs"}
    assert {switch: found[switch] for switch in helpers} == {
        switch: int(f"\t{helper} = " in declarations) for switch, helper in helpers.items()
    }


def is_flag(structure: str, member: str, byte: int, mask: int) -> str:
    """Spell in C that setting the member sets this bit, and no other of its byte."""
    made = f"struct {structure} made = {{}}; made.{member} = 1;"
    return f"({{ {made} ((unsigned char *)&made)[{byte}] == {mask}; }})"


def existing(types: TypeInformation, structure: str, paths: Sequence[str]) -> str:
    """Say which of the names of a member this kernel has."""
    for path in paths:
        with suppress(ProbeError):
            types.offset(structure, path)
            return path
    raise AssertionError(f"{structure} has none of {paths}")


class Lacking(TypeInformation):
    """This kernel's types, but for one structure."""

    lacks = ""

    def offset(self, structure: str, *paths: str) -> int:
        return super().offset("" if structure == self.lacks else structure, *paths)

    def flag(self, structure: str, path: str) -> tuple[int, int]:
        return super().flag("" if structure == self.lacks else structure, path)


@pytest.mark.parametrize(
    ("lacks", "without"),
    [
        ("cgroup", "OTC_CGROUPS"),
        ("pid", "OTC_VPIDS"),
        ("pt_regs", "OTC_CALL_NUMBER"),
        ("mptcp_sock", "OTC_MPTCP"),
        ("mptcp_subflow_context", "OTC_MPTCP"),
    ],
)
def test_what_can_be_done_without_is_switched_off_where_a_member_is_missing(lacks: str, without: str) -> None:
    types = Lacking(BTF.read_bytes())
    types.lacks = lacks
    found = find_offsets(types)
    assert switched_off(found) == switched_off(find_offsets(TypeInformation(BTF.read_bytes()))) | {without}
    assert {found[name] for name in OPTIONAL[without]} == {0}


def test_a_kernel_that_lacks_anything_else_is_refused() -> None:
    types = Lacking(BTF.read_bytes())
    types.lacks = "task_struct"
    with pytest.raises(ProbeError, match="has no"):
        find_offsets(types)
