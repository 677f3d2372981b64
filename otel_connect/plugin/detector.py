"""What the application runs on, in the words of the semantic conventions.

The SDK's own host detector gives what ``uname -m`` says (``x86_64``); the convention, and the backends that
follow it, say ``amd64``.
"""

import logging
import os

from opentelemetry.sdk.resources import Resource, ResourceDetector

from otel_connect.encode.resource import host_description
from otel_connect.host import machine_id

_log = logging.getLogger(__name__)


class HostDetector(ResourceDetector):
    """Detects ``host.arch``, ``host.name``, ``host.id``, ``os.type`` and ``os.version``.

    Selected by ``OTEL_EXPERIMENTAL_RESOURCE_DETECTORS=otel_connect``.
    """

    def __init__(self, *, raise_on_error: bool = False, **parameters: object) -> None:
        super().__init__(raise_on_error)
        for name in parameters:
            _log.warning("the resource detector: %s: is not supported; there are no parameters", name)

    def detect(self) -> Resource:
        """Describe the host; without a schema URL, so that it merges with any other resource."""
        return Resource(dict(host_description(os.uname(), machine_id())))
