"""docs/troubleshooting.md has every message that the agent can give, as the agent writes it, and no other."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from otel_connect import cli
from otel_connect.export.ledger import Reason
from otel_connect.model import Withheld
from tests.contract.test_links import anchors
from tests.support.messages import GAP, NOT_FOR_OPERATORS, PACKAGE, Text, reasons_of_the_kernel, texts

NAME = "docs/troubleshooting.md"
PAGE = (PACKAGE.parent / NAME).read_text(encoding="utf-8")
TEXTS = texts()
KILLED = {130, 143}
NO_TROUBLE = "Lines that are no trouble"

_BLOCK = re.compile(r"^```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Kind(NamedTuple):
    """One kind of trouble: a section, so that it has an anchor of its own."""

    heading: str
    lines: list[str]
    words: str


def kinds(page: str) -> list[Kind]:
    """Read the sections that quote messages."""
    sections = re.split(r"^#{2,3} ", page, flags=re.MULTILINE)[1:]
    return [
        Kind(section.partition("\n")[0], "".join(blocks).splitlines(), " ".join(section.split()))
        for section in sections
        if (blocks := _BLOCK.findall(section))
    ]


def quoted(page: str) -> list[str]:
    return [line for kind in kinds(page) for line in kind.lines]


def untold(said: Sequence[Text], page: str) -> list[str]:
    """Name the messages that no line of a page has whole."""
    lines = quoted(page)
    return [
        f"{text.file}:{text.line}: {text.template}"
        for text in said
        if text.is_message and not any(re.search(".*".join(map(re.escape, text.pieces)), line) for line in lines)
    ]


def stale(said: Sequence[Text], page: str) -> list[str]:
    """Name the lines of a page in which there is something that is said nowhere."""
    pieces = sorted({piece for text in said for piece in text.pieces}, key=len, reverse=True)
    known = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, pieces))})(?!\w)")
    return [line for line in quoted(page) if re.search(r"\w", known.sub("", line))]


def test_every_message_is_on_the_page() -> None:
    assert untold(TEXTS, PAGE) == []


def test_every_line_of_the_page_is_said() -> None:
    assert stale(TEXTS, PAGE) == []


def test_every_kind_says_what_to_do_and_what_is_lost() -> None:
    troubles = [kind for kind in kinds(PAGE) if kind.heading != NO_TROUBLE]
    assert troubles
    for part in ("**Do:**", "**Lost:**"):
        assert [kind.heading for kind in troubles if part not in kind.words] == []


def test_no_anchor_and_no_line_is_there_twice() -> None:
    assert [name for name in anchors(PAGE) if anchors(PAGE).count(name) > 1 or re.search(r"-\d+$", name)] == []
    assert [line for line in quoted(PAGE) if quoted(PAGE).count(line) > 1] == []


def test_every_reason_of_a_loss_has_an_anchor() -> None:
    told = re.findall(r'^\| <a id="(\w+)"></a>`\1` \|', PAGE, re.MULTILINE)
    assert sorted(told) == sorted({*map(str, Reason), *reasons_of_the_kernel()})


def test_exit_codes() -> None:
    section = PAGE.split("\n## Exit codes\n")[1].partition("\n## ")[0]
    told = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", section, re.MULTILINE) for code in row.split(",")}
    assert told == {int(code) for code in re.findall(r"(\d+) [a-z]", cli.__doc__ or "")} | KILLED


def test_limits_of_throttles() -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    limits = {Withheld.PROCESS_RATE, Withheld.CGROUP_RATE, Withheld.RING_PRESSURE}
    assert told == {limit.name.lower() for limit in limits}


def test_help_names_the_page() -> None:
    assert NAME in (cli.commands.epilog or "")


def test_exempt_files_are_there() -> None:
    files = {text.file for text in TEXTS if len(text.template.split()) > 1}
    assert set(NOT_FOR_OPERATORS) <= files


QUOTED = "the kernel does not take all of the filters (…); the agent decides"


@pytest.mark.parametrize(
    ("instead", "found"),
    [
        (QUOTED, (0, 0)),
        (QUOTED.replace("filters", "rules"), (1, 1)),
        (QUOTED.replace("; the agent decides", ""), (1, 0)),
        (QUOTED.replace(GAP, "No space left"), (0, 1)),
        ("", (1, 0)),
    ],
)
def test_a_line_that_differs_is_found(instead: str, found: tuple[int, int]) -> None:
    assert f"\n{QUOTED}\n" in PAGE
    page = PAGE.replace(QUOTED, instead)
    assert tuple(len(set(problems(TEXTS, page)) - set(problems(TEXTS, PAGE))) for problems in (untold, stale)) == found
