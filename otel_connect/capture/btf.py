"""A reader of the kernel's type information (BTF), as far as byte offsets of structure members need it.

BTF is a header, a list of types and a table of strings. Types are numbered from 1 in the order they
stand in; each is 12 bytes, followed by data whose length depends on its kind. Source:
Documentation/bpf/btf.rst of the kernel.
"""

import struct
import sys
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from otel_connect.errors import ProbeError

_MAGIC = 0xEB9F
_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")
_BEGINNING = struct.Struct("=II")
_MEMBER = struct.Struct("=III")
_ENUMERATOR = struct.Struct("=Ii")

_ARRAY, _STRUCT, _UNION, _ENUM = 3, 4, 5, 6
_FUNC, _FUNC_PROTO, _VAR, _DATASEC, _DECL_TAG, _ENUM64 = 12, 13, 14, 15, 17, 19
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG = 8, 9, 10, 11, 18
_MODIFIERS = {_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG}

# Bytes that follow the 12 of a type: (fixed, for each of vlen elements), by kind.
_TAIL = {
    1: (4, 0),
    _ARRAY: (12, 0),
    _STRUCT: (0, 12),
    _UNION: (0, 12),
    _ENUM: (0, 8),
    _FUNC_PROTO: (0, 8),
    _VAR: (4, 0),
    _DATASEC: (0, 12),
    _DECL_TAG: (4, 0),
    _ENUM64: (0, 12),
}
_LAST_KIND = _ENUM64


class Member(NamedTuple):
    """Where a member stands: ``bit`` from the beginning of the structure, ``bits`` wide if a bit field."""

    bit: int
    bits: int
    type_id: int


class TypeInformation:
    """The types of one BTF blob, indexed for look-ups of structure members by name."""

    def __init__(self, blob: bytes) -> None:
        """Index ``blob``, the content of ``/sys/kernel/btf/vmlinux``; raises ProbeError if it is not BTF."""
        self._blob = blob
        try:
            magic, version, _, header, type_at, type_bytes, string_at, _ = _HEADER.unpack_from(blob)
            if magic != _MAGIC or version != 1:
                raise ProbeError("the kernel's BTF has an unknown format; use this machine's own kernel")
            self._strings = header + string_at
            self._positions = self._index(header + type_at, header + type_at + type_bytes)
        except (struct.error, KeyError, IndexError) as error:
            raise ProbeError("the kernel's BTF is damaged or newer than this; update the agent") from error

    def offset(self, structure: str, *paths: str) -> int:
        """Byte offset of a member; the first of ``paths`` that exists counts, names joined by dots.

        Members of anonymous structures and unions are found as in C. Raises ProbeError when there is none,
        or when it is a bit field.
        """
        for path in paths:
            member = self._resolve(structure, path)
            if member is not None and not member.bits and member.bit % 8 == 0:
                return member.bit // 8
        raise ProbeError(f"this kernel's struct {structure} has no {' or '.join(paths)}; update the agent")

    def flag(self, structure: str, path: str) -> tuple[int, int]:
        """Byte offset of a bit field that is one bit wide, and its mask within that byte.

        Raises ProbeError when there is none.
        """
        member = self._resolve(structure, path)
        if member is None or member.bits != 1:
            raise ProbeError(f"this kernel's struct {structure} has no {path}; update the agent")
        byte, bit = divmod(member.bit, 8)
        return byte, 1 << bit if sys.byteorder == "little" else 0x80 >> bit

    def size(self, structure: str) -> int:
        """Bytes that a structure takes; raises ProbeError when there is none of that name."""
        type_id = self._structures.get(structure)
        if type_id is None:
            raise ProbeError(f"this kernel has no struct {structure}; update the agent")
        return int(_TYPE.unpack_from(self._blob, self._positions[type_id])[2])

    def typedef(self, wanted: str) -> int | None:
        """Return the number of the typedef of that name, ``None`` when this kernel does not have it."""
        return self._number(_TYPEDEF, wanted)

    def parameters(self, number: int) -> int:
        """Count the parameters of a function, or of one that a typedef names pointers to, by its number."""
        prototype = self._target(self._bare(number))
        return int(_TYPE.unpack_from(self._blob, self._positions[prototype])[1] & 0xFFFF)

    def function(self, wanted: str) -> int | None:
        """Return the number of the function of that name, ``None`` when this kernel does not have it."""
        return self._number(_FUNC, wanted)

    def enumerator(self, enumeration: str, wanted: str) -> int | None:
        """Value of a constant of a 32-bit ``enum``; ``None`` when this kernel does not have it."""
        return self.enumerators(enumeration).get(wanted)

    def enumerators(self, enumeration: str) -> dict[str, int]:
        """Return the constants of a 32-bit ``enum``, none when this kernel does not have it."""
        position = self._positions[self._enumerations.get(enumeration, 0)]
        if not position:
            return {}
        _, info, _ = _TYPE.unpack_from(self._blob, position)
        begin = position + 12
        members = _ENUMERATOR.iter_unpack(self._blob[begin : begin + _ENUMERATOR.size * (info & 0xFFFF)])
        return {self._string(name): int(value) for name, value in members}

    def _resolve(self, structure: str, path: str) -> Member | None:
        type_id = self._structures.get(structure)
        bit = 0
        member = None
        for name in path.split("."):
            member = self._find(type_id, name) if type_id else None
            if member is None:
                return None
            bit += member.bit
            type_id = self._bare(member.type_id)
        return member._replace(bit=bit) if member else None

    def _index(self, position: int, end: int) -> list[int]:
        positions = [0]  # type 0 is void
        self._structures: dict[str, int] = {}
        self._enumerations: dict[str, int] = {}
        blob = self._blob
        unpack = _TYPE.unpack_from
        while position < end:
            name, info, _ = unpack(blob, position)
            kind = (info >> 24) & 0x1F
            if kind > _LAST_KIND:
                raise KeyError(kind)
            if kind == _STRUCT and name:
                self._structures.setdefault(self._string(name), len(positions))
            elif kind == _ENUM and name:
                self._enumerations.setdefault(self._string(name), len(positions))
            positions.append(position)
            fixed, each = _TAIL.get(kind, (0, 0))
            position += 12 + fixed + each * (info & 0xFFFF)
        return positions

    def _find(self, type_id: int, wanted: str) -> Member | None:
        for name, member in self._members(type_id):
            if name == wanted:
                return member
            if not name:
                inner = self._find(self._bare(member.type_id), wanted)
                if inner is not None:
                    return inner._replace(bit=inner.bit + member.bit)
        return None

    def _members(self, type_id: int) -> Iterator[tuple[str, Member]]:
        position = self._positions[type_id]
        _, info, _ = _TYPE.unpack_from(self._blob, position)
        if (info >> 24) & 0x1F not in {_STRUCT, _UNION}:
            return
        bit_fields = info >> 31
        for index in range(info & 0xFFFF):
            name, member_type, where = _MEMBER.unpack_from(self._blob, position + 12 + 12 * index)
            bits = where >> 24 if bit_fields else 0
            bit = where & 0xFFFFFF if bit_fields else where
            yield self._string(name), Member(bit, bits, member_type)

    def _bare(self, type_id: int) -> int:
        """Follow typedefs and qualifiers to the type they stand for."""
        while type_id:
            _, info, target = _TYPE.unpack_from(self._blob, self._positions[type_id])
            if (info >> 24) & 0x1F not in _MODIFIERS:
                return type_id
            type_id = target
        return 0

    def _number(self, kind: int, wanted: str) -> int | None:
        """Find a type by its kind and name among tens of thousands that are seldom asked for."""
        name = self._blob.find(b"\0%b\0" % wanted.encode(), self._strings) + 1 - self._strings
        for linkage in range(3) if name > 0 else ():  # of functions: static, global, extern
            begins = _BEGINNING.pack(name, kind << 24 | linkage)
            at = self._blob.find(begins, self._positions[1])
            while at >= 0:
                number = bisect_left(self._positions, at, 1)
                if number < len(self._positions) and self._positions[number] == at:
                    return number
                at = self._blob.find(begins, at + 1)
        return None

    def _target(self, type_id: int) -> int:
        return int(_TYPE.unpack_from(self._blob, self._positions[type_id])[2])

    def _string(self, offset: int) -> str:
        start = self._strings + offset
        return self._blob[start : self._blob.index(b"\0", start)].decode()
