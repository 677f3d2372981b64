"""What a backend will never take, kept for whoever wants to know why.

Two files at the most, ``dead-letters.jsonl`` and, older, ``dead-letters.jsonl.1``, each of half the bound.
A line is one request: a JSON object with ``time`` (ISO 8601), ``signal``, ``records``, ``reason`` (what the
backend said) and ``body`` (the serialized OTLP request in base64).
"""

import json
import os
import stat
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from otel_connect.export.directory import open_private
from otel_connect.export.store import StoreError
from otel_connect.model import Request

NAME = "dead-letters.jsonl"
LIMIT_BYTES = 16 << 20


class DeadLetters:
    """A file in a private directory, which is made if it is absent; ``limit_bytes`` bounds both files together."""

    def __init__(
        self,
        directory: Path,
        limit_bytes: int = LIMIT_BYTES,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes // 2
        self._now = now

    def write(self, request: Request, reason: str) -> str | None:
        """Keep a request; gives why it could not be kept, or ``None``."""
        line = json.dumps(
            {
                "time": self._now().isoformat(timespec="milliseconds"),
                "signal": request.signal,
                "records": request.records,
                "reason": reason,
                "body": b64encode(request.body).decode(),
            }
        )
        data = line.encode() + b"\n"
        if len(data) > self._limit_bytes:
            return "it is larger than the file may become"
        try:
            directory = open_private(self._directory)
            try:
                self._make_room(directory, len(data))
                _append(directory, data)
            finally:
                os.close(directory)
        except StoreError as error:
            return str(error)
        except OSError as error:
            return error.strerror or str(error)
        return None

    def _make_room(self, directory: int, size: int) -> None:
        try:
            status = os.stat(NAME, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        # What is not a file of ours is never written to.
        plain = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1
        if not plain or status.st_size + size > self._limit_bytes:
            os.rename(NAME, f"{NAME}.1", src_dir_fd=directory, dst_dir_fd=directory)


def _append(directory: int, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(NAME, flags, 0o600, dir_fd=directory)
    with os.fdopen(descriptor, "ab", buffering=0) as file:
        file.write(data)
