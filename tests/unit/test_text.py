"""Whatever a process calls itself, a terminal shows it and obeys none of it."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.serve import text

# What a terminal obeys, hides or reorders by: controls, formats (bidi, zero-width), surrogates, private and
# unassigned code points, line and paragraph separators.
HARMFUL = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
HOSTILE = st.text(
    st.one_of(
        st.characters(),
        st.characters(categories=["Cc", "Cf", "Mn", "Me", "Zl", "Zp"]),
        st.integers(0xD800, 0xDFFF).map(chr),
        st.sampled_from("\x1b\x9b\x07\u202e\u2066\u200b\u2028\u3164\ufe0f\U000e0041 a字"),
    )
)


def harmless(shown: str) -> bool:
    return not {unicodedata.category(character) for character in shown} & HARMFUL


@given(HOSTILE)
def test_any_text_becomes_one_harmless_line(name: str) -> None:
    shown = text.safe(name)
    assert harmless(shown)
    assert len(shown.splitlines()) <= 1
    shown.encode()  # no surrogate is left


@given(st.binary(max_size=64))
def test_any_bytes_become_one_harmless_line(name: bytes) -> None:
    shown = text.safe(name.decode("utf-8", "backslashreplace"))
    assert harmless(shown)
    assert len(shown.splitlines()) <= 1


@given(HOSTILE)
def test_safe_text_stays_as_it_is(name: str) -> None:
    assert text.safe(text.safe(name)) == text.safe(name)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("curl", "curl"),
        ("[/]", "[/]"),
        ("Web Content", "Web Content"),
        ("网络 λ é ☃", "网络 λ é ☃"),
        ("e\u0301te\u0301", "e\u0301te\u0301"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\nb\r\tc\x7f", r"a\x0ab\x0d\x09c\x7f"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("a\u200bb\u2028c\ufeff", r"a\u200bb\u2028c\ufeff"),
        ("a\u3164\ufe0f", r"a\u3164\ufe0f"),
        ("\U000e0041\U0010ffff", r"\U000e0041\U0010ffff"),
        ("\udc80", r"\udc80"),
        ("\u0301a", r"\u0301a"),  # a mark with no letter of its own
        ("a" + "\u0301" * 4, "a\u0301\u0301\u0301" + r"\u0301"),  # a tower of marks
        ("a\xa0b", r"a\xa0b"),
    ],
)
def test_what_is_shown(name: str, shown: str) -> None:
    assert text.safe(name) == shown


@given(HOSTILE.map(text.safe), st.integers(0, 20))
def test_cut_text_fits_and_padding_fills(name: str, cells: int) -> None:
    cut = text.cut(name, cells)
    assert text.width(cut) <= cells
    assert text.width(text.pad(cut, cells)) == cells
    assert text.width(text.pad(cut, cells, right=True)) == cells
    assert cut == name if text.width(name) <= cells else cut == "" or cut.endswith("…")


@pytest.mark.parametrize(
    ("name", "cells", "cut"),
    [
        ("systemd-resolved", 15, "systemd-resolv…"),
        ("systemd-resolve", 15, "systemd-resolve"),
        ("网络服务", 8, "网络服务"),
        ("网络服务", 7, "网络服…"),
        ("网络服务", 6, "网络…"),  # half of a character is never shown
        ("abc", 1, "…"),
        ("abc", 0, ""),
    ],
)
def test_cut(name: str, cells: int, cut: str) -> None:
    assert text.cut(name, cells) == cut


@pytest.mark.parametrize(
    ("nanoseconds", "shown"),
    [
        (None, "–"),
        (0, "0 µs"),
        (45_000, "45 µs"),
        (99_499, "99 µs"),
        (99_500, "0.1 ms"),
        (400_000, "0.4 ms"),
        (9_949_999, "9.9 ms"),
        (9_950_000, "10 ms"),
        (999_499_999, "999 ms"),
        (999_500_000, "1.0 s"),
        (3_080_000_000, "3.1 s"),
        (31_000_000_000, "31 s"),
        (130_000_000_000, "130 s"),
        (599_500_000_000, "10 min"),
        (7_200_000_000_000, "2 h"),
    ],
)
def test_duration(nanoseconds: int | None, shown: str) -> None:
    assert text.duration(nanoseconds) == shown


@given(st.integers(0, 10**15))
def test_a_duration_fits_its_column(nanoseconds: int) -> None:
    assert len(text.duration(nanoseconds)) <= len("DURATION")


@pytest.mark.parametrize(
    ("address", "port", "shown"),
    [
        ("10.1.2.80", 443, "10.1.2.80:443"),
        ("2001:db8::1", 443, "[2001:db8::1]:443"),
        ("::1", None, "::1"),
        (None, 443, "–:443"),
        (None, None, "–"),
        ("\x1b[0m", 1, r"\x1b[0m:1"),
    ],
)
def test_endpoint(address: str | None, port: int | None, shown: str) -> None:
    assert text.endpoint(address, port) == shown
