"""Our reader of BTF against bpftool and the compiler, on the running kernel."""

import subprocess
from pathlib import Path

from otel_connect.capture.btf import TypeInformation
from otel_connect.capture.offsets import MEMBERS, find_offsets
from otel_connect.capture.preflight import BTF


def test_every_offset_is_what_the_compiler_makes_of_the_kernels_own_declarations(tmp_path: Path) -> None:
    declarations = subprocess.run(
        ["bpftool", "btf", "dump", "file", BTF, "format", "c"], check=True, capture_output=True, text=True
    ).stdout
    (tmp_path / "vmlinux.h").write_text(declarations)
    found = find_offsets(TypeInformation(BTF.read_bytes()))
    claims = [
        f'_Static_assert(__builtin_offsetof(struct {structure}, {path}) == {found[name]}, "{name}");'
        for name, (structure, *paths) in MEMBERS.items()
        for path in paths[:1]
    ]
    source = tmp_path / "claims.c"
    source.write_text('#include "vmlinux.h"\n' + "\n".join(claims))
    compiled = subprocess.run(["gcc", "-w", "-fsyntax-only", source], check=False, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    assert len(claims) == len(MEMBERS)
