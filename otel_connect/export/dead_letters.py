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

from otel_connect.model import Request

NAME = "dead-letters.jsonl"
LIMIT_BYTES = 16 << 20


class DeadLetters:
    """A file in a directory that somebody else has made private; ``limit_bytes`` bounds both files together."""

    def __init__(
        self,
        directory: Path,
        limit_bytes: int = LIMIT_BYTES,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._path = directory / NAME
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
            self._make_room(len(data))
            self._append(data)
        except OSError as error:
            return error.strerror or str(error)
        return None

    def _make_room(self, size: int) -> None:
        try:
            status = self._path.lstat()
        except FileNotFoundError:
            return
        # What is not a file of ours is never written to.
        plain = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1
        if not plain or status.st_size + size > self._limit_bytes:
            self._path.rename(self._path.with_name(f"{NAME}.1"))

    def _append(self, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            file.write(data)
