"""The context that processes publish: read from real memory, and from memory that changes meanwhile."""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from otel_connect.enrich.context_memory import published_message, read_payload
from otel_connect.enrich.otel_context import attributes, process_context
from otel_connect.enrich.published import bounded
from tests.support import publisher
from tests.support.publisher import Publication, Publisher, resource

NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
HERE, THERE = 4096, 8192
MESSAGE = publisher.process_context(resource(service__name="shop"))


def start_boot_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19]) * NS_PER_TICK


def shared_memory() -> str:
    """Return the device of mappings that are made by memfd_create, as maps writes it."""
    device = os.fstat(os.memfd_create("x")).st_dev
    return f"{os.major(device):02x}:{os.minor(device):02x}"


def same(_memory: object) -> None:
    """Change nothing."""


class Memory:
    """Memory of a process, which does something of its own before each reading."""

    def __init__(self, *changes: Callable[["Memory"], None]) -> None:
        self.bytes = bytearray(16384)
        self._changes: Iterator[Callable[[Memory], None]] = iter(changes)
        self.readings: list[int] = []

    def publish(self, message: bytes = MESSAGE, *, version: int = 2, published_ns: int = 1, at: int = THERE) -> None:
        head = publisher.header(message, at, version=version, published_ns=published_ns)
        self.bytes[HERE : HERE + len(head)] = head
        self.bytes[at : at + len(message)] = message[: len(self.bytes) - at]

    def read(self, address: int, size: int) -> bytes:
        next(self._changes, same)(self)
        self.readings.append(size)
        if address >= 1 << 63:
            raise OverflowError
        if address >= len(self.bytes):
            raise OSError(5, "Input/output error")
        return bytes(self.bytes[address : address + size])


def payload_of(memory: Memory) -> bytes | None:
    return read_payload(memory.read, HERE)


def test_a_context_that_stays_is_read_once() -> None:
    memory = Memory()
    memory.publish()
    assert payload_of(memory) == MESSAGE
    assert memory.readings == [32, len(MESSAGE), 32]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"version": 1}, id="version 1"),
        pytest.param({"version": 3}, id="version 3"),
        pytest.param({"message": b""}, id="empty"),
        pytest.param({"message": bytes(65537)}, id="too large"),
        pytest.param({"published_ns": 0}, id="being changed all the time"),
        pytest.param({"at": 1 << 62}, id="pointer to nowhere"),
        pytest.param({"at": (1 << 64) - 1}, id="pointer to the end"),
        pytest.param({"at": 16380}, id="pointer across the end"),
    ],
)
def test_what_is_no_whole_context_is_not_taken(broken: dict[str, int | bytes]) -> None:
    memory = Memory()
    memory.publish(**broken)  # type: ignore[arg-type]
    assert payload_of(memory) is None
    assert max(memory.readings) <= 65536
    assert len(memory.readings) <= 9


def test_without_signature_nothing_is_read() -> None:
    memory = Memory()
    memory.publish()
    memory.bytes[HERE] = 0
    assert payload_of(memory) is None
    assert memory.readings == [32]


def test_one_that_changes_while_it_is_read_is_read_again() -> None:
    new = publisher.process_context(resource(service__name="checkout"))

    def begin(memory: Memory) -> None:
        memory.publish(MESSAGE[:5], published_ns=0)

    def end(memory: Memory) -> None:
        memory.publish(new, published_ns=2)

    for changes in ((same, begin, end), (same, end), (same, same, end), (same, same, begin, end), (begin, end)):
        memory = Memory(*changes)
        memory.publish()
        assert payload_of(memory) == new


def test_one_that_changes_all_the_time_is_given_up() -> None:
    def change(memory: Memory) -> None:
        memory.publish(published_ns=len(memory.readings) + 7)

    memory = Memory(*[change] * 100)
    assert payload_of(memory) is None
    assert len(memory.readings) == 9


def test_both_forms_of_the_message() -> None:
    bare = resource(service__name="shop", service__instance__id="1f", deployment__environment__name="test")
    expected = {"service.name": "shop", "service.instance.id": "1f", "deployment.environment.name": "test"}
    assert attributes(bare) == expected
    assert attributes(publisher.process_context(bare)) == expected
    assert attributes(resource(h1="a key that is a message, too")) == {"h1": "a key that is a message, too"}
    further = KeyValue(key="further", value=AnyValue(string_value="x")).SerializeToString()
    assert attributes(publisher.process_context(bare, further=further)) == expected


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20), max_size=8))
def test_any_texts_that_are_not_ours(pairs: dict[str, str]) -> None:
    assume(bounded(pairs.items()) == pairs)
    message = Resource(
        attributes=[KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in pairs.items()]
    ).SerializeToString()
    assert attributes(publisher.process_context(message)) == pairs


def test_values_are_written_as_text() -> None:
    values = {
        "yes": AnyValue(bool_value=True),
        "no": AnyValue(bool_value=False),
        "whole": AnyValue(int_value=-7),
        "broken": AnyValue(double_value=0.25),
        "list": AnyValue(array_value=ArrayValue(values=[AnyValue(string_value="x")])),
        "none": AnyValue(),
        "process.pid": AnyValue(int_value=1),
        "telemetry.sdk.name": AnyValue(string_value="opentelemetry"),
    }
    message = Resource(attributes=[KeyValue(key=key, value=value) for key, value in values.items()])
    expected = {"yes": "true", "no": "false", "whole": "-7", "broken": "0.25"}
    assert attributes(message.SerializeToString()) == expected


@given(st.binary(max_size=200))
def test_garbage_is_no_message_or_attributes(payload: bytes) -> None:
    found = attributes(payload)
    assert found is None or all(key and value for key, value in found.items())


@given(st.integers(0, len(MESSAGE) - 1), st.integers(0, 255))
def test_a_damaged_message_never_raises(position: int, byte: int) -> None:
    attributes(MESSAGE[:position] + bytes([byte]) + MESSAGE[position + 1 :])
    attributes(MESSAGE[:position])


def test_a_real_mapping_of_this_process() -> None:
    me = os.getpid()
    publication = Publication(publisher.process_context(resource(service__name="unit", service__namespace="tests")))
    try:
        assert process_context(me, start_boot_ns(me)) == {"service.name": "unit", "service.namespace": "tests"}
        assert process_context(me, start_boot_ns(me) + 1_000_000_000) is None
    finally:
        publication.close()
    assert process_context(me, start_boot_ns(me)) is None


def test_a_real_mapping_of_another_version() -> None:
    publication = Publication(MESSAGE, version=1)
    try:
        assert process_context(os.getpid(), start_boot_ns(os.getpid())) is None
    finally:
        publication.close()


def test_what_a_process_publishes_withdraws_and_publishes_again() -> None:
    with Publisher() as other:
        start = start_boot_ns(other.pid)
        other.order("withdraw")
        assert process_context(other.pid, start) is None
        for name in ("first", "second"):
            other.order(f"publish {name} 7")
            assert process_context(other.pid, start) == {"service.name": name, "service.instance.id": "7"}
    assert process_context(other.pid, start) is None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("/memfd:OTEL_CTX (deleted)", True),
        ("/memfd:OTEL_CTX", True),
        ("[anon_shmem:OTEL_CTX]", True),
        ("[anon:OTEL_CTX]", True),
        ("/memfd:OTEL_CTX2 (deleted)", False),
        ("/srv/OTEL_CTX", False),
        ("/srv/x /memfd:OTEL_CTX", False),
        ("[anon:OTEL_CTX", False),
        ("", False),
    ],
)
def test_the_names_of_the_mapping(name: str, found: bool, tmp_path: Path) -> None:
    here = tmp_path / str(os.getpid())
    here.mkdir()
    (here / "stat").write_bytes(Path("/proc/self/stat").read_bytes())
    others = "7f0000000000-7f0000001000 r--p 00000000 00:00 0 [anon: OTEL]\n" * 3000
    below = others.replace("7f0000000000-7f0000001000", "000000000100-000000000200")
    line = f"{HERE:012x}-{HERE + 8192:012x} rw-s 00000000 {shared_memory()} 1029 {name}\n"
    (here / "maps").write_text(below + line + others)
    memory = Memory()
    memory.publish()
    (here / "mem").write_bytes(memory.bytes)
    assert published_message(os.getpid(), start_boot_ns(os.getpid()), tmp_path) == (MESSAGE if found else None)


@pytest.mark.parametrize(
    ("device", "inode", "found"),
    [("00:00", 0, True), ("SHARED", 1029, True), ("00:2f", 1029, False), ("fe:01", 1029, False)],
)
@pytest.mark.parametrize("mapping", ["header", "message"])
def test_a_mapping_of_a_file_is_not_read(mapping: str, device: str, inode: int, found: bool, tmp_path: Path) -> None:
    device = device.replace("SHARED", shared_memory())
    kinds = {"header": "00:00 0", "message": "00:00 0"} | {mapping: f"{device} {inode}"}
    at = HERE + 8192
    (tmp_path / str(os.getpid())).mkdir()
    here = tmp_path / str(os.getpid())
    (here / "stat").write_bytes(Path("/proc/self/stat").read_bytes())
    (here / "maps").write_text(
        f"{HERE:012x}-{at:012x} rw-p 00000000 {kinds['header']} [anon:OTEL_CTX]\n"
        f"{at:012x}-{at + 8:012x} rw-p 00000000 00:00 0 \n"  # the message lies across two mappings
        f"{at + 8:012x}-{at + 4096:012x} rw-p 00000000 {kinds['message']} \n"
    )
    memory = Memory()
    memory.publish(at=at)
    (here / "mem").write_bytes(memory.bytes)
    assert published_message(os.getpid(), start_boot_ns(os.getpid()), tmp_path) == (MESSAGE if found else None)


def test_the_header_is_32_bytes_in_this_order() -> None:
    assert publisher.header(b"abc", 0x1122, published_ns=9) == struct.pack("<8sIIQQ", b"OTEL_CTX", 2, 3, 9, 0x1122)
