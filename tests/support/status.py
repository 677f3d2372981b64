"""Asking the status server of a running agent."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from otel_connect.config import Listen, parse_listen


class Status:
    """The pages of an agent, at ``HOST:PORT`` or ``unix:/PATH``."""

    def __init__(self, listen: str) -> None:
        self.address: Listen = parse_listen(listen)

    def get(self, path: str, timeout_s: float = 10.0) -> tuple[int, str]:
        """Ask for a page; returns its status and its text."""
        connection = http.client.HTTPConnection(self.address.host, self.address.port or None, timeout=timeout_s)
        try:
            if self.address.path:
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.settimeout(timeout_s)
                connection.sock.connect(self.address.path)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def document(self) -> dict[str, Any]:
        """Read ``/status``."""
        status, body = self.get("/status")
        assert status == 200, body
        document: dict[str, Any] = json.loads(body)
        return document

    def reachable(self) -> bool:
        """Say whether anybody answers."""
        try:
            self.get("/livez")
        except (OSError, http.client.HTTPException):
            return False
        return True


def unix_listen(directory: Path) -> str:
    """Name a socket in a directory of the test."""
    return f"unix:{directory / 'status.sock'}"
