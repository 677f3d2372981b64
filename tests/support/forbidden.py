"""A cgroup whose processes may not connect: a program at its connect hooks says no, so that they get EPERM."""

import ctypes
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from otel_connect.capture import bpf
from tests.support.cgroups import hierarchies, own_cgroups

_PROG_LOAD, _PROG_ATTACH = 5, 8  # of bpf()
_CGROUP_SOCK_ADDR = 18  # enum bpf_prog_type
_CONNECT_HOOKS = (10, 11)  # BPF_CGROUP_INET4_CONNECT and BPF_CGROUP_INET6_CONNECT
_NO = struct.pack("=BBxxiBBxxi", 0xB7, 0, 0, 0x95, 0, 0)  # r0 = 0; exit
_LICENCE = b"GPL"
_BEGINNING = struct.Struct("=IIQQ44xI")  # prog_type, insn_cnt, insns, license, …, expected_attach_type


@contextmanager
def forbidding_cgroup() -> Iterator[Path]:
    """Make one below that of this process; return the file to which a process writes 0 to enter it.

    Raises KeyError where there is no cgroup v2, OSError where the kernel has not such programs.
    """
    above = hierarchies()[""] / own_cgroups()[""].lstrip("/")
    folder = Path(tempfile.mkdtemp(prefix="otc-forbidding-", dir=above))
    with ExitStack() as undo:
        undo.callback(folder.rmdir)
        for hook in _CONNECT_HOOKS:
            _forbid(folder, hook)
        yield folder / "cgroup.procs"


def _forbid(folder: Path, hook: int) -> None:
    code, licence = ctypes.create_string_buffer(_NO), ctypes.create_string_buffer(_LICENCE)
    where = (ctypes.addressof(code), ctypes.addressof(licence))
    program = bpf._bpf(_PROG_LOAD, _BEGINNING.pack(_CGROUP_SOCK_ADDR, len(_NO) // 8, *where, hook))
    group = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        bpf._bpf(_PROG_ATTACH, struct.pack("=IIII", group, program, hook, 0))
    finally:
        os.close(group)
        os.close(program)
