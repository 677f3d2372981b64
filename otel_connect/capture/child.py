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
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from otel_connect.capture import bpf

MAPS = (
    *("events", "in_progress", "counters", "ring", "tallies", "tally_even", "tally_odd", "tallies_begun"),
    *("filters", "filtered_uids", "filtered_ports", "filtered_networks"),
)

STATE_HOOK = "inet_sock_set_state"
STATE_PROGRAMS = ("state_change", "state_change_again")
RESET_PROGRAM = "receive_reset"
TYPED_PROGRAMS = (
    *((STATE_HOOK, name) for name in STATE_PROGRAMS),
    ("tcp_receive_reset", RESET_PROGRAM),
)
"""Raw tracepoints and their programs, attached in this order; why the state hook has two: probes/connect.c."""

_LICENCE = "Dual MIT/GPL"

_INCLUDE = re.compile(r'#include "(\S+)"')


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


def load(program: Path, flags: list[str], typed: Mapping[str, int]) -> Loaded:
    """Compile, load and attach the probes in ``program``; raises LoadError.

    ``typed`` has the number of the type of each raw tracepoint.
    """
    bcc = _bindings()
    library = importlib.import_module("bcc.libbcc").lib
    try:
        module = bcc.BPF(text=joined(program), cflags=flags)
        programs = {name: _load_typed(module, name, hook, typed[hook]) for hook, name in TYPED_PROGRAMS}
        hooks = {
            f"raw_tracepoint:{hook}/{name}": _attach_typed(programs[name], name, hook) for hook, name in TYPED_PROGRAMS
        }
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


def _load_typed(module: Any, name: str, hook: str, btf_id: int) -> int:
    """Load what bcc has compiled: its own method knows no typed programs."""
    try:
        return bpf.load_typed(module.dump_func(name.encode()), name, _LICENCE, btf_id)
    except OSError as error:
        raise LoadError("refused", f"{name} was not loaded for raw_tracepoint {hook}: {error.strerror}") from error


def _attach_typed(program: int, name: str, hook: str) -> int:
    try:
        return bpf.attach_typed(program)
    except OSError as error:
        raise LoadError("refused", f"{name} was not attached to raw_tracepoint {hook}: {error.strerror}") from error


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
        loaded = load(Path(order["program"]), order["flags"], order["typed"])
    except LoadError as error:
        channel.sendall(json.dumps({"cause": error.cause, "detail": str(error)}).encode())
    else:
        names = json.dumps([list(part) for part in loaded]).encode()
        socket.send_fds(channel, [names], [descriptor for part in loaded for descriptor in part.values()])
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
