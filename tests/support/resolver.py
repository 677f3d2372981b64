"""A name server of the tests' own: answers from a table, by UDP and TCP, and misbehaves where a test wants it to."""

import selectors
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.support.network import NetworkNamespace

Records = Mapping[str, Sequence[tuple[str, str]]]
"""For each name, its records: ``{"web.test": [("CNAME", "lb.test")], "lb.test": [("A", "127.0.0.80")]}``."""

Forge = Callable[[dns.message.Message], Sequence[dns.message.Message]]
"""What is sent ahead of the right answer, made of it."""


class Resolver:
    """Serves ``records`` at port 53 of some addresses, without a namespace those of the machine.

    ``truncated`` makes clients ask again by TCP.
    """

    def __init__(
        self,
        records: Records,
        namespace: NetworkNamespace | None,
        addresses: Sequence[str] = ("127.0.0.53",),
        *,
        truncated: bool = False,
        forge: Forge = lambda _answer: (),
    ) -> None:
        self._records = records
        self._truncated = truncated
        self._forge = forge
        self._selector = selectors.DefaultSelector()
        self.asked: list[str] = []
        self._stop, self._stopped = socket.socketpair()
        self._selector.register(self._stopped, selectors.EVENT_READ, None)
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            for make in (_datagram, _listener):
                listen = partial(make, family, address)
                served = namespace.inside(listen) if namespace else listen()
                handle = self._by_udp if make is _datagram else self._by_tcp
                self._selector.register(served, selectors.EVENT_READ, handle)
        self._thread = threading.Thread(target=self._serve, name="resolver")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.close()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                with suppress(OSError):  # a client that has gone
                    key.data(key.fileobj)

    def _by_udp(self, served: socket.socket) -> None:
        question, client = served.recvfrom(4096)
        answer = self.answer(question)
        for forged in self._forge(answer):
            served.sendto(forged.to_wire(), client)
        if self._truncated:
            answer.flags |= dns.flags.TC
            answer.answer = []
        served.sendto(answer.to_wire(), client)

    def _by_tcp(self, served: socket.socket) -> None:
        connection, _ = served.accept()
        with connection, connection.makefile("rb") as stream:
            connection.settimeout(5)
            while length := stream.read(2):
                answer = self.answer(stream.read(int.from_bytes(length, "big"))).to_wire()
                connection.sendall(len(answer).to_bytes(2, "big") + answer)

    def answer(self, question: bytes) -> dns.message.Message:
        """Answer as a recursive server would: the aliases, and what is at their end."""
        asked = dns.message.from_wire(question)
        answer = dns.message.make_response(asked, recursion_available=True)
        kind = dns.rdatatype.to_text(asked.question[0].rdtype)
        name = asked.question[0].name.to_text(omit_final_dot=True).lower()
        self.asked.append(f"{name} {kind}")
        while (records := self._records.get(name)) is not None:
            found = [value for record, value in records if record == kind]
            aliases = [value for record, value in records if record == "CNAME"]
            if found or not aliases:
                answer.answer += [dns.rrset.from_text(f"{name}.", 300, "IN", kind, *found)] if found else []
                return answer
            answer.answer.append(dns.rrset.from_text(f"{name}.", 300, "IN", "CNAME", f"{aliases[0]}."))
            name = aliases[0]
        answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer


def _datagram(family: socket.AddressFamily, address: str) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.bind((address, 53))
    return made


def _listener(family: socket.AddressFamily, address: str) -> socket.socket:
    return socket.create_server((address, 53), family=family)
