"""Cgroups of the tests' own, in the v2 tree and, where it has one, in the v1 hierarchy of the pids controller."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


def hierarchies() -> dict[str, Path]:
    """Find where the v2 tree (called "") and the v1 hierarchy of ``pids`` are mounted."""
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, folder, kind, options, *_ = line.split()
        if kind == "cgroup2":
            found.setdefault("", Path(folder))
        elif kind == "cgroup" and "pids" in options.split(","):
            found.setdefault("pids", Path(folder))
    return found


@contextmanager
def cgroup(path: str, *only: str) -> Iterator[None]:
    """Have this process, and all that it starts meanwhile, in a new cgroup of that path below its own.

    In all hierarchies, or ``only`` in these.
    """
    own = own_cgroups()
    with ExitStack() as undo:
        for hierarchy, mount in hierarchies().items():
            if only and hierarchy not in only:
                continue
            home = here = mount / own[hierarchy].lstrip("/")
            for part in path.split("/"):
                here /= part
                here.mkdir()
                undo.callback(here.rmdir)
            (here / "cgroup.procs").write_text("0", encoding="utf-8")
            undo.callback((home / "cgroup.procs").write_text, "0", encoding="utf-8")
        yield


def own_cgroups() -> dict[str, str]:
    """Say what the kernel shows of this process, by hierarchy."""
    lines = Path("/proc/self/cgroup").read_bytes().splitlines()
    found = dict(os.fsdecode(line).split(":", 2)[1:] for line in lines)
    return {hierarchy: found[hierarchy] for hierarchy in hierarchies()}
