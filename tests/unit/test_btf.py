"""The BTF reader on small type tables made by hand."""

import struct

import pytest

from otel_connect.capture.btf import TypeInformation
from otel_connect.errors import ProbeError

INT, PTR, STRUCT, UNION, ENUM, TYPEDEF, CONST, FUNC, FUNC_PROTO = 1, 2, 4, 5, 6, 8, 10, 12, 13


class Table:
    """Writes types one after another; each add returns the number of its type."""

    def __init__(self) -> None:
        self._strings = bytearray(b"\0")
        self._types = bytearray()
        self._count = 0

    def add(self, kind: int, name: str = "", *, size: int = 0, members: list[tuple[str, int, int]] | None = None,
            bit_fields: bool = False) -> int:  # fmt: skip
        members = members or []
        info = kind << 24 | len(members) | (1 << 31 if bit_fields else 0)
        self._types += struct.pack("=III", self._string(name), info, size)
        if kind == INT:
            self._types += struct.pack("=I", 32)
        for member, *rest in members:
            self._types += struct.pack("=I", self._string(member))
            if kind in {ENUM, FUNC_PROTO}:
                self._types += struct.pack("=i", rest[0])
            else:
                self._types += struct.pack("=II", *rest)
        self._count += 1
        return self._count

    def _string(self, text: str) -> int:
        if not text:
            return 0
        self._strings += text.encode() + b"\0"
        return len(self._strings) - len(text) - 1

    def blob(self) -> bytes:
        sizes = (0, len(self._types), len(self._types), len(self._strings))
        return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, *sizes) + bytes(self._types + self._strings)


def test_members_are_found_in_anonymous_unions_typedefs_and_nested_paths() -> None:
    table = Table()
    number = table.add(INT, "int", size=4)
    inner = table.add(STRUCT, "inner", size=8, members=[("a", number, 0), ("b", number, 32)])
    alias = table.add(TYPEDEF, "inner_t", size=inner)
    constant = table.add(CONST, size=alias)
    union = table.add(UNION, size=8, members=[("one", number, 0), ("two", constant, 0)])
    table.add(STRUCT, "outer", size=16, members=[("first", number, 0), ("", union, 64)])
    types = TypeInformation(table.blob())
    assert types.offset("outer", "first") == 0
    assert types.offset("outer", "one") == 8
    assert types.offset("outer", "two.b") == 12
    assert types.offset("outer", "old_name", "two.a") == 8


def test_a_missing_member_is_named() -> None:
    table = Table()
    table.add(STRUCT, "task", size=4, members=[])
    with pytest.raises(ProbeError, match="struct task has no start or begin"):
        TypeInformation(table.blob()).offset("task", "start", "begin")
    with pytest.raises(ProbeError, match="struct nothing has no x"):
        TypeInformation(table.blob()).offset("nothing", "x")


def test_sizes_and_constants() -> None:
    table = Table()
    table.add(ENUM, "kind", size=4, members=[("first", 3, 0), ("last", -1, 0)])
    table.add(STRUCT, "task", size=48, members=[])
    types = TypeInformation(table.blob())
    assert types.size("task") == 48
    assert [types.enumerator("kind", name) for name in ("first", "last", "other")] == [3, -1, None]
    assert types.enumerator("other", "first") is None
    assert types.enumerators("kind") == {"first": 3, "last": -1}
    assert types.enumerators("other") == {}
    with pytest.raises(ProbeError, match="no struct kind"):
        types.size("kind")


def test_a_bit_field_is_no_byte_offset() -> None:
    table = Table()
    number = table.add(INT, "int", size=4)
    members = [("flag", number, 1 << 24 | 8), ("whole", number, 32)]
    table.add(STRUCT, "s", size=8, members=members, bit_fields=True)
    types = TypeInformation(table.blob())
    assert types.offset("s", "whole") == 4
    with pytest.raises(ProbeError, match="no flag"):
        types.offset("s", "flag")


@pytest.mark.parametrize("blob", [b"", b"\x9f\xeb", bytes(64), Table().blob()[:20]])
def test_what_is_not_btf_is_refused(blob: bytes) -> None:
    with pytest.raises(ProbeError, match="BTF"):
        TypeInformation(blob)


def test_a_kind_of_a_later_kernel_is_refused() -> None:
    table = Table()
    table.add(31, "future")
    with pytest.raises(ProbeError, match="newer"):
        TypeInformation(table.blob())
