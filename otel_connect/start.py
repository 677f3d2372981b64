"""The entry point: signals wait until the command that they are meant for can handle them.

Importing takes a moment, and so does reading the configuration. A SIGHUP in that time would end the process, which was
asked to read its configuration again; a SIGINT would show a traceback.
"""

import signal
from typing import NoReturn

_HELD = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def main() -> NoReturn:
    """Hold the signals, and run the command line."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    from otel_connect.cli import main as command_line  # noqa: PLC0415 - this is what takes a moment

    command_line()


def release() -> None:
    """Take the signals from now on, those that came meanwhile first."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
