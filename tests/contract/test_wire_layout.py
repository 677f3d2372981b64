"""probes/connect.h, as the host's compiler sees it, against the decoder in Python."""

import struct
import subprocess
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from pathlib import Path

import pytest

from otel_connect.capture.filters import BY_NETWORK, BY_PORT, BY_UID, NETWORK, NETWORK_FIELDS
from otel_connect.capture.layout import (
    ATTEMPT,
    ATTEMPT_FIELDS,
    COUNTER_FIELDS,
    COUNTERS,
    EVENT,
    EVENT_FIELDS,
    PACKET,
    PACKET_FIELDS,
    TEXT,
    TEXT_BLOCK,
    TEXT_BLOCKS,
    TEXT_FIELDS,
    TEXT_SIZES,
)
from otel_connect.capture.tallies import TALLY, TALLY_FIELDS, TALLY_KEY, TALLY_KEY_FIELDS
from otel_connect.model import About, Detail, Ending, EventFlag, Hook, Withheld

PROBES = Path(__file__).resolve().parents[2] / "probes"


def compile_and_run(lines: Sequence[str], folder: Path) -> list[int]:
    """Print one number for each C expression."""
    source = folder / "print.c"
    prints = "\n".join(f'printf("%ld\\n", (long)({line}));' for line in lines)
    source.write_text(f'#include <stddef.h>\n#include <stdio.h>\n#include "connect.h"\nint main(void) {{ {prints} }}\n')
    subprocess.run(["gcc", "-Werror", "-I", PROBES, "-o", folder / "print", source], check=True)
    output = subprocess.run([folder / "print"], check=True, capture_output=True, text=True).stdout
    return [int(number) for number in output.split()]


@pytest.mark.parametrize(
    ("structure", "fields", "whole"),
    [
        ("otc_event", EVENT_FIELDS, EVENT),
        ("otc_attempt", ATTEMPT_FIELDS, ATTEMPT),
        ("otc_packet", PACKET_FIELDS, PACKET),
        ("otc_counters", COUNTER_FIELDS, COUNTERS),
        ("otc_tally_key", TALLY_KEY_FIELDS, TALLY_KEY),
        ("otc_tally", TALLY_FIELDS, TALLY),
        ("otc_network", NETWORK_FIELDS, NETWORK),
    ],
)
def test_every_field_stands_where_the_decoder_reads_it(
    structure: str, fields: Sequence[tuple[str, str]], whole: struct.Struct, tmp_path: Path
) -> None:
    assert every_field(structure, fields, tmp_path) == [*places(fields), whole.size]


def test_a_text_has_its_strings_behind_its_fields_and_the_size_of_no_other_record(tmp_path: Path) -> None:
    fields = (*TEXT_FIELDS, ("bytes", f"{TEXT_BLOCK * TEXT_BLOCKS}s"))
    assert every_field("otc_text", fields, tmp_path) == [*places(fields), max(TEXT_SIZES)]
    numbers = compile_and_run(["OTC_TEXT_BLOCK", "OTC_TEXT_BLOCKS", "offsetof(struct otc_text, bytes)"], tmp_path)
    assert numbers == [TEXT_BLOCK, TEXT_BLOCKS, TEXT.size]
    assert EVENT.size not in TEXT_SIZES


def every_field(structure: str, fields: Sequence[tuple[str, str]], folder: Path) -> list[int]:
    """Ask the compiler for the offsets of the fields, their sizes, and the size of the structure."""
    offsets = [f"offsetof(struct {structure}, {name})" for name, _ in fields]
    sizes = [f"sizeof(((struct {structure} *)0)->{name})" for name, _ in fields]
    return compile_and_run([*offsets, *sizes, f"sizeof(struct {structure})"], folder)


def places(fields: Sequence[tuple[str, str]]) -> list[int]:
    """Say where the decoder looks for each of the fields, and how long it takes it to be."""
    sizes = [struct.calcsize("=" + code) for _, code in fields]
    return [*(sum(sizes[:index]) for index in range(len(fields))), *sizes]


@pytest.mark.parametrize(
    ("numbers", "prefix"),
    [
        (Hook, "OTC_HOOK_"),
        (EventFlag, "OTC_FLAG_"),
        (Ending, "OTC_"),
        (Withheld, "OTC_"),
        (Detail, "OTC_"),
        (About, "OTC_"),
    ],
)
def test_numbers_of_the_header_are_those_of_the_model(
    numbers: type[IntEnum] | type[IntFlag], prefix: str, tmp_path: Path
) -> None:
    # An expired attempt is the agent's own finding: no probe ever writes it.
    members = [member for member in numbers if member is not Ending.EXPIRED]
    assert compile_and_run([prefix + str(m.name) for m in members], tmp_path) == [m.value for m in members]


def test_kinds_of_filters_have_the_same_numbers(tmp_path: Path) -> None:
    printed = compile_and_run(["OTC_BY_UID", "OTC_BY_PORT", "OTC_BY_NETWORK"], tmp_path)
    assert printed == [BY_UID, BY_PORT, BY_NETWORK]
