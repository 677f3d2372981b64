"""Messages of ctnetlink: written as the kernel reads them, and nothing that comes back does harm."""

import struct
from socket import AF_INET, inet_pton

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.enrich.conntrack import Answer, Endpoint, answer, request

CLIENT, SERVICE = Endpoint("10.1.2.3", 45678), Endpoint("10.96.0.10", 443)


def test_a_request_names_the_original_tuple() -> None:
    # As `conntrack -G -p tcp -s 10.1.2.3 -d 10.96.0.10 --sport 45678 --dport 443` sends it, without its zone.
    body = (
        bytes((AF_INET, 0, 0, 0))
        + struct.pack("=HH", 52, 0x8001)
        + struct.pack("=HH", 20, 0x8001)
        + struct.pack("=HH4sHH4s", 8, 1, inet_pton(AF_INET, "10.1.2.3"), 8, 2, inet_pton(AF_INET, "10.96.0.10"))
        + struct.pack("=HH", 28, 0x8002)
        + struct.pack("=HHB3x", 5, 1, 6)
        + struct.pack("=HH", 6, 2) + struct.pack("!H2x", 45678)
        + struct.pack("=HH", 6, 3) + struct.pack("!H2x", 443)
    )  # fmt: skip
    assert request(7, CLIENT, SERVICE) == struct.pack("=IHHII", 16 + len(body), 0x101, 1, 7, 0) + body


def test_an_error_says_which() -> None:
    message = struct.pack("=IHHIIi", 36, 2, 0, 7, 0, -2) + bytes(16)
    assert answer(message) == Answer(7, 2, None)


def test_what_was_written_can_be_read() -> None:
    # The reply of a connection has the shape of a request with another attribute around it.
    message = bytearray(request(9, Endpoint("fd00::2", 8080), Endpoint("fd00::1", 4)))
    struct.pack_into("=H", message, 4, 0x100)
    struct.pack_into("=H", message, 22, 0x8002)
    assert answer(bytes(message)) == Answer(9, 0, Endpoint("fd00::2", 8080))


@given(st.binary(max_size=200), st.sampled_from([0x100, 2, 3]), st.booleans())
def test_no_message_raises_anything_but_a_value_error(data: bytes, kind: int, shaped: bool) -> None:
    message = struct.pack("=IHHII", len(data), kind, 0, 1, 0) + bytes((AF_INET, 0, 0, 0)) + data if shaped else data
    try:
        assert answer(message).sequence >= 0
    except ValueError:
        return


@pytest.mark.parametrize("place", range(20, 100, 4))
def test_a_damaged_message_is_refused_or_read(place: int) -> None:
    message = bytearray(request(9, CLIENT, SERVICE))
    struct.pack_into("=H", message, 4, 0x100)
    struct.pack_into("=H", message, 22, 0x8002)
    assert answer(bytes(message)).replies_from == CLIENT
    with pytest.raises(ValueError, match=r"message|attribute|invalid"):
        answer(bytes(message[: place - place % 4][:60]))
