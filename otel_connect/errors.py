"""The one exception tree, by who can act.

::

    OtelConnectError            70  a fault of the agent itself
    ├── ConfigError              2  the operator: an option, a file or a variable is wrong
    │   └── SpoolInUseError      2  the operator: another process holds the spool directory
    ├── OutputError             74  the operator: standard output did not take everything
    └── ProbeError              78  the kernel or its bindings: something the capture needs is absent
        └── NotPermittedError   77  the operator: a privilege is missing

Each message is one line that names the cause and the remedy, and docs/troubleshooting.md has it. Exceptions of
other libraries are translated where they enter; a lost or undecodable event is counted, never raised.
"""

import errno
from collections.abc import Sequence


class OtelConnectError(Exception):
    """Anything the agent refuses to go on with; ``exit_code`` is what the process returns."""

    exit_code = 70


class ConfigError(OtelConnectError):
    """The configuration cannot be used; ``problems`` holds one line for each thing to fix."""

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(map(_one_line, problems))
        super().__init__("\n".join(self.problems))


def _one_line(problem: str) -> str:
    """Escape what is not printable: names of files, and values, may hold anything."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in problem)


class SpoolInUseError(ConfigError):
    """Another process holds the spool directory; a caller that may choose takes another one."""


class OutputError(OtelConnectError):
    """Standard output could not be written at some time; what is missing there was counted."""

    exit_code = 74


class ProbeError(OtelConnectError):
    """The probes cannot run on this kernel, or with these bindings."""

    exit_code = 78


class NotPermittedError(ProbeError):
    """The kernel refused because a privilege is missing."""

    exit_code = 77


_SHORTAGES = {
    errno.EMFILE: "allow more open files, 1024 for example (ulimit -n, LimitNOFILE=)",
    errno.ENFILE: "the whole host has too many open files: raise the sysctl fs.file-max",
    errno.ENOMEM: "the host, or the limit of the service or container, has no memory left: allow more",
}


def shortage(error: OSError) -> str:
    """Say what to do about a system call that failed because something has run out; empty if it failed otherwise."""
    return _SHORTAGES.get(error.errno or 0, "")
