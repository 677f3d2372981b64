"""A process that publishes its OpenTelemetry context as SDKs do (OTEP 4719), and connects when it is told to.

Run as a module it takes orders on standard input, a line each, and answers every one with a line:
``publish NAME INSTANCE``, ``withdraw`` and ``connect PORT``.
"""

import ctypes
import mmap
import os
import socket
import struct
import sys
import time

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tests.support.ordered import Ordered

_PR_SET_VMA, _PR_SET_VMA_ANON_NAME = 0x53564D41, 0
_SIZE = 17 * mmap.PAGESIZE  # for the largest message that is read, and the header
_BEHIND = 256  # where the message lies behind the header


def resource(**attributes: str) -> bytes:
    """Encode a Resource; of the keys, dots are written as double underscores."""
    pairs = [(key.replace("__", "."), value) for key, value in attributes.items()]
    return Resource(
        attributes=[KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in pairs]
    ).SerializeToString()


def process_context(resource_message: bytes, *, further: bytes = b"") -> bytes:
    """Encode a ProcessContext: the resource is field 1, further attributes are field 2."""
    return b"".join(
        bytes([number << 3 | 2]) + _varint(len(message)) + message
        for number, message in ((1, resource_message), (2, further))
        if message
    )


def header(message: bytes, address: int, *, version: int = 2, published_ns: int = 1) -> bytes:
    """Lay out the header, little-endian as on every machine that has these tests."""
    sizes = struct.pack("<II", version, len(message))
    return b"OTEL_CTX" + sizes + struct.pack("<QQ", published_ns, address)


class Publication:
    """A context in the memory of this process, as long as this is kept."""

    def __init__(self, message: bytes, *, version: int = 2) -> None:
        descriptor = os.memfd_create("OTEL_CTX", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _SIZE)
        self._mapping = mmap.mmap(descriptor, _SIZE)
        os.close(descriptor)
        self._mapping.madvise(mmap.MADV_DONTFORK)
        view = ctypes.c_char.from_buffer(self._mapping)
        self.address = ctypes.addressof(view)
        del view
        self._mapping[_BEHIND : _BEHIND + len(message)] = message
        whole = header(message, self.address + _BEHIND, version=version, published_ns=time.monotonic_ns())
        self._mapping[8 : len(whole)] = whole[8:]
        self._mapping[:8] = whole[:8]  # the signature is written last
        arguments = [ctypes.c_ulong(one) for one in (_PR_SET_VMA_ANON_NAME, self.address, _SIZE)]
        ctypes.CDLL(None).prctl(_PR_SET_VMA, *arguments, b"OTEL_CTX")  # kernels that give no names refuse

    def close(self) -> None:
        """Withdraw it."""
        self._mapping.close()


class Publisher(Ordered):
    """Such a process, started from a test; ``command`` may go before it, ``environment`` is added to its own."""

    def __init__(self, *command: str, environment: dict[str, str] | None = None) -> None:
        super().__init__([*command, sys.executable, "-m", __name__], os.environ | (environment or {}))


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])


def _main() -> None:
    publication: Publication | None = None
    for line in sys.stdin:
        order, *arguments = line.split()
        if publication is not None and order != "connect":
            publication.close()
        if order == "publish":
            name, instance = arguments
            message = process_context(resource(service__name=name, service__instance__id=instance))
            publication = Publication(message)
        elif order == "connect":
            with socket.socket() as client:
                client.connect_ex(("127.0.0.1", int(arguments[0])))
        print("done", flush=True)


if __name__ == "__main__":
    _main()
