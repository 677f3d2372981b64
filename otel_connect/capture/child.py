"""The short-lived child that compiles and loads the probes; the only module that imports bcc.

bcc brings LLVM along, about 120 MB of memory that nobody needs once the probes are attached. So the agent
starts this module as a process of its own, which sends the descriptors of maps, programs and attachments
back over a Unix socket, and leaves by ``os._exit``: bcc's clean-up would switch the tracepoints off, which
both processes share.
"""

import importlib
import json
import os
import re
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from otel_connect.capture import bpf

MAPS = (
    *("events", "in_progress", "counters", "ring", "tallies", "tally_even", "tally_odd", "tallies_begun"),
    *("filters", "filtered_uids", "filtered_ports", "filtered_networks"),
)

_WIDE_LOAD = struct.Struct("=BBxxI4xI")  # both halves of BPF_LD | BPF_IMM | BPF_DW: code, registers, low, high
_LOAD_64 = 0x18

_INCLUDE = re.compile(r'#include "(\S+)"')


class Program(NamedTuple):
    """A program whose arguments have types: what it is attached to, its name, and the number of the type of that."""

    kind: bpf.Attach
    hook: str
    name: str
    btf_id: int

    @property
    def label(self) -> str:
        """Name the hook as it is shown."""
        return f"{bpf.Attach(self.kind).name.lower()}:{self.hook}"


class Link(NamedTuple):
    """What stands in the programs in place of a constant (``LINK`` of probes/kernel.h).

    ``kind`` is a BPF_PSEUDO_* of linux/bpf.h; ``number`` a descriptor or a number of a type.
    """

    constant: int
    kind: int
    number: int


class Loaded(NamedTuple):
    """Descriptors by name: of the maps, of the attachments (by hook), of the programs."""

    maps: dict[str, int]
    hooks: dict[str, int]
    programs: dict[str, int]


class LoadError(Exception):
    """Why nothing was loaded: ``cause`` is one of absent, wrong, refused."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


def joined(program: Path) -> str:
    """Return the program with its parts in the places of ``#include "part"``; compilers name the part and its line.

    bcc writes ``map.lookup(…)`` and its like anew, but only in the text that it is handed, not in what that includes.
    """
    lines = []
    for number, line in enumerate(program.read_text(encoding="utf-8").splitlines(), 1):
        if include := _INCLUDE.match(line):
            part = (program.parent / include[1]).read_text(encoding="utf-8").rstrip()
            lines += [f'#line 1 "{include[1]}"', part, f'#line {number + 1} "{program.name}"']
        else:
            lines.append(line)
    return "\n".join([*lines, ""])


def load(program: Path, flags: list[str], typed: Sequence[Program], links: Sequence[Link]) -> Loaded:
    """Compile, load and attach the probes in ``program``; raises LoadError."""
    bcc = _bindings()
    library = importlib.import_module("bcc.libbcc").lib
    try:
        module = bcc.BPF(text=joined(program), cflags=flags)
        programs = {one.name: _load_typed(module, one, links) for one in typed}
        hooks = {f"{one.label}/{one.name}": _attach_typed(programs[one.name], one) for one in typed}
    except LoadError:
        raise
    except Exception as error:  # bcc raises bare Exceptions
        raise LoadError("refused", str(error)) from error
    # Nothing may collect the module before the descriptors are sent: that would close them.
    globals()["_keep"] = module
    return Loaded(
        maps={name: library.bpf_table_fd(module.module, name.encode()) for name in MAPS},
        hooks=hooks | {f"tracepoint:{name.decode()}": fd for name, fd in module.tracepoint_fds.items()},
        programs=programs | {name.decode(): function.fd for name, function in module.funcs.items()},
    )


def _load_typed(module: Any, one: Program, links: Sequence[Link]) -> int:
    """Load what bcc has compiled: its own method knows no typed programs."""
    instructions = linked(module.dump_func(one.name.encode()), links)
    try:
        return bpf.load_tracing(instructions, one.name, one.kind, one.btf_id)
    except OSError as error:
        detail = f"{one.name} was not loaded for {one.label}: {error.strerror}"
        raise LoadError("refused", detail) from error


def linked(instructions: bytes, links: Sequence[Link]) -> bytes:
    """Put what only the loader knows in the places of its constants, each in the two halves of a 64-bit load."""
    code = bytearray(instructions)
    wanted = {link.constant: link for link in links}
    for at in range(0, len(code) - 8, 8):
        operation, registers, low, high = _WIDE_LOAD.unpack_from(code, at)
        if operation == _LOAD_64 and (link := wanted.get(high << 32 | low)):
            _WIDE_LOAD.pack_into(code, at, operation, registers | link.kind << 4, link.number, 0)
    return bytes(code)


def _attach_typed(program: int, one: Program) -> int:
    try:
        return bpf.attach_tracing(program)
    except OSError as error:
        detail = f"{one.name} was not attached to {one.label}: {error.strerror}"
        raise LoadError("refused", detail) from error


def _bindings() -> Any:
    try:
        bcc = importlib.import_module("bcc")
    except ImportError as error:
        raise LoadError("absent", str(error)) from error
    if not hasattr(bcc, "BPF"):
        raise LoadError("wrong", str(getattr(bcc, "__file__", None) or "its name"))
    return bcc


def main() -> None:
    """Take an order from the socket whose descriptor is the first argument, and answer it."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    order = json.loads(sys.argv[2])
    try:
        typed, links = [Program(*one) for one in order["typed"]], [Link(*one) for one in order["links"]]
        loaded = load(Path(order["program"]), order["flags"], typed, links)
    except LoadError as error:
        channel.sendall(json.dumps({"cause": error.cause, "detail": str(error)}).encode())
    else:
        names = json.dumps([list(part) for part in loaded]).encode()
        socket.send_fds(channel, [names], [descriptor for part in loaded for descriptor in part.values()])
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
