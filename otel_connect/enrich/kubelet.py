"""Asks the kubelet of this node for its pods, from a thread of its own, so that no attempt waits for the answer."""

import json
import logging
import ssl
import threading
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from otel_connect.config.files import PEM_BYTES, check_file, read_file
from otel_connect.enrich.pods import Names, names
from otel_connect.errors import ConfigError

_log = logging.getLogger(__name__)

_TIMEOUT_S = 5.0
_MOST_BYTES = 32 << 20
_MOST_TOKEN = 64 << 10

REFRESH_S = 30.0
"""How old an answer becomes at most; labels change, and containers go."""
AT_LEAST_S = 2.0
"""How long to wait between two questions, also where a container is not known yet, or the kubelet does not answer."""


class NoAnswer(Exception):  # noqa: N818 - it is no fault of the agent
    """The kubelet said nothing that could be used; the message is one line."""


class KubeletClient:
    """Fetches the pods of a node; the token is read anew each time, because it is replaced on disk."""

    def __init__(self, url: str, token_file: Path | None, certificate: Path | None) -> None:
        """Read the certificate of the authority (``None``: those of the system); raises ConfigError."""
        self._url = url.rstrip("/") + "/pods"
        self._token_file = token_file
        try:
            if certificate is not None:
                check_file(certificate, PEM_BYTES)
            context = ssl.create_default_context(cafile=certificate)
        except OSError as error:
            problem = f"enrich.kubelet_certificate: {certificate} cannot be read ({error.strerror or error})"
            raise ConfigError([f"{problem}; name a readable PEM file"]) from error
        # The token is for the kubelet alone: it goes through no proxy and follows no redirect.
        handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _NoRedirect()
        self._opener = urllib.request.build_opener(*handlers)

    def __call__(self) -> Names:
        """Ask once; raises NoAnswer."""
        try:
            # The configuration has checked that it is HTTP.
            request = urllib.request.Request(self._url, headers={"Accept": "application/json"})  # noqa: S310
            if self._token_file is not None:
                # Without blanks: what cannot stand in a header would be shown in the error.
                token = "".join(read_file(self._token_file, _MOST_TOKEN).decode("ascii").split())
                request.add_unredirected_header("Authorization", f"Bearer {token}")
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                body = answer.read(_MOST_BYTES + 1)
            if len(body) > _MOST_BYTES:
                raise NoAnswer(f"more than {_MOST_BYTES} bytes")
            return names(json.loads(body))
        except HTTPError as error:
            error.close()
            raise NoAnswer(f"HTTP {error.code}") from error
        except (OSError, HTTPException, ValueError, RecursionError) as error:
            raise NoAnswer(" ".join(str(error).split()) or type(error).__name__) from error


class Pods:
    """Knows the containers of this node; the thread that asks for them begins with the first that is wanted."""

    def __init__(self, ask: Callable[[], Names], refresh_s: float = REFRESH_S, at_least_s: float = AT_LEAST_S) -> None:
        self._ask = ask
        self._refresh_s = refresh_s
        self._at_least_s = at_least_s
        self._names: Names = {}
        self._wanted = threading.Event()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def of(self, container_id: str | None, pod_uid: str | None) -> Mapping[str, str]:
        """Say what is known of a container, else of its pod; never waits, so that a new one is known a little later."""
        for key in (container_id, pod_uid):
            if key and key in self._names:
                return self._names[key]
        if pod_uid or container_id:
            self._wanted.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)
                self._thread.start()
        return {}

    def close(self, wait_s: float = 0.0) -> None:
        """Ask no more, and wait so long at the most for the thread to end: an answer may be under way.

        The thread is a daemon: a kubelet that keeps silent never keeps the process alive.
        """
        self._over.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(wait_s)

    def _run(self) -> None:
        answered = True
        while not self._over.is_set():
            self._wanted.clear()
            try:
                self._names = self._ask()
            except NoAnswer as error:
                if answered:
                    _log.warning("no names of pods from the kubelet: %s", error)
                answered = False
            else:
                if not answered:
                    _log.info("the kubelet answers again")
                answered = True
            if self._over.wait(self._at_least_s):
                return
            self._wanted.wait(self._refresh_s - self._at_least_s)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Follow none: the answer is an error then."""
