"""The API server of a Kubernetes cluster, as far as those need it who watch pods: a list, and no news after it."""

import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

_VERSION = "7"


class KubernetesApi:
    """Serves these pods on a free port of the loopback interface."""

    def __init__(self, pods: Sequence[dict[str, Any]]) -> None:
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(pods, self._over))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def kubeconfig(self, folder: Path) -> Path:
        """Write the file that tells a client where it is, and return its path."""
        named = {"name": "test"}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [named | {"cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}}],
            "users": [named | {"user": {}}],
            "contexts": [named | {"context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        file = folder / "kubeconfig"
        file.write_text(json.dumps(content), encoding="utf-8")
        return file

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def pod(name: str, uid: str, container_id: str, **metadata: Any) -> dict[str, Any]:
    """Describe a running pod of one container, which is called "main"."""
    status = {"name": "main", "containerID": f"containerd://{container_id}", "image": "i", "imageID": "i"}
    state = {"ready": True, "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
    return {
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "resourceVersion": "1", **metadata},
        "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": "i"}]},
        "status": {"phase": "Running", "podIP": "10.1.2.3", "containerStatuses": [status | state]},
    }


def _handler(pods: Sequence[dict[str, Any]], over: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            query = parse_qs(address.query)
            if address.path != "/api/v1/pods":
                self._answer(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404})
            elif "sendInitialEvents" in query:  # as servers answer that cannot stream a list
                invalid = {"status": "Failure", "reason": "Invalid", "code": 422}
                self._answer(422, {"kind": "Status", "apiVersion": "v1", **invalid})
            elif "watch" in query:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.flush()
                over.wait()
            else:
                items = {"metadata": {"resourceVersion": _VERSION}, "items": list(pods)}
                self._answer(200, {"kind": "PodList", "apiVersion": "v1", **items})

        def _answer(self, status: int, message: dict[str, Any]) -> None:
            body = json.dumps(message).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing on standard error."""

    return Handler
