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
from pathlib import Path
from typing import Any, NamedTuple

MAPS = (
    *("events", "in_progress", "counters", "ring", "tallies", "tally_even", "tally_odd", "tallies_begun"),
    *("filters", "filtered_uids", "filtered_ports", "filtered_networks"),
)

STATE_HOOK = "inet_sock_set_state"
END_PROGRAMS = ("end_attempt", "end_attempt_again")
RESET_PROGRAM = "receive_reset"
RAW_PROGRAMS = (
    *((STATE_HOOK, name) for name in ("begin_attempt", *END_PROGRAMS)),
    ("tcp_receive_reset", RESET_PROGRAM),
)
"""Raw tracepoints and their programs, attached in this order; why the state hook has three: probes/connect.c."""

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


def load(program: Path, flags: list[str]) -> Loaded:
    """Compile, load and attach the probes in ``program``; raises LoadError."""
    bcc = _bindings()
    library = importlib.import_module("bcc.libbcc").lib
    try:
        module = bcc.BPF(text=joined(program), cflags=flags)
        raw_hooks = {
            f"raw_tracepoint:{hook}/{name}": _attach_raw(bcc, library, module, hook, name)
            for hook, name in RAW_PROGRAMS
        }
    except LoadError:
        raise
    except Exception as error:  # bcc raises bare Exceptions
        raise LoadError("refused", str(error)) from error
    # Nothing may collect the module before the descriptors are sent: that would close them.
    globals()["_keep"] = module
    return Loaded(
        maps={name: library.bpf_table_fd(module.module, name.encode()) for name in MAPS},
        hooks=raw_hooks | {f"tracepoint:{name.decode()}": fd for name, fd in module.tracepoint_fds.items()},
        programs={name.decode(): function.fd for name, function in module.funcs.items()},
    )


def _attach_raw(bcc: Any, library: Any, module: Any, hook: str, program: str) -> int:
    """Attach to a raw tracepoint; bcc's own method takes one program for each of them."""
    function = module.load_func(program.encode(), bcc.BPF.RAW_TRACEPOINT)
    descriptor = int(library.bpf_attach_raw_tracepoint(function.fd, hook.encode()))
    if descriptor < 0:
        raise LoadError("refused", f"{program} was not attached to {hook}: {os.strerror(-descriptor)}")
    return descriptor


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
        loaded = load(Path(order["program"]), order["flags"])
    except LoadError as error:
        channel.sendall(json.dumps({"cause": error.cause, "detail": str(error)}).encode())
    else:
        names = json.dumps([list(part) for part in loaded]).encode()
        socket.send_fds(channel, [names], [descriptor for part in loaded for descriptor in part.values()])
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
