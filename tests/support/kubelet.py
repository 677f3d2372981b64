"""A kubelet that knows one pod."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.kubernetes import pod

UID, ID = "2c48913c-b29f-11e7-9350-020968147796", "3f1c9a8b" * 8
LIST = json.dumps({"items": [pod("web-1", UID, ID)]}).encode()


class Kubelet:
    """A server that answers as it is told, and remembers what it was asked, with which token."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.answer: tuple[int, bytes] = (200, LIST)
        self.asked: list[tuple[str, str | None]] = []
        kubelet = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kubelet.asked.append((self.path, self.headers.get("Authorization")))
                status, body = kubelet.answer
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing on standard error."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Say nothing of clients that do not trust the certificate."""

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server.server_port}"


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Kubelet]:
    one = Kubelet(tls)
    thread = threading.Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield one
    finally:
        one.server.shutdown()
        thread.join()
        one.server.server_close()
