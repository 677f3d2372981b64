"""The queries of the documentation: each question of a page of docs/backends with its fenced blocks."""

import re
from pathlib import Path
from typing import NamedTuple

PAGES = Path(__file__).parents[2] / "docs" / "backends"
_BLOCK = re.compile(r"^```(\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Query(NamedTuple):
    """One query, and the number of the question that it answers."""

    question: int
    language: str
    text: str


def questions(page: str) -> list[str]:
    """Return the questions of a page, in order; of ``README`` its list."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^\d+\. (.+)$" if page == "README" else r"^## \d+\. (.+)$", text, re.MULTILINE)


def queries(page: str) -> list[Query]:
    """Return the queries below the questions of a page."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    sections = re.split(r"^## (\d+)\. .+$", text, flags=re.MULTILINE)
    return [
        Query(int(number), language, body.strip())
        for number, section in zip(sections[1::2], sections[2::2], strict=True)
        for language, body in _BLOCK.findall(section)
    ]


def preamble(page: str, language: str) -> str:
    """Return the block of this language before the first question."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8").partition("\n## 1. ")[0]
    return next(str(body) for found, body in _BLOCK.findall(text) if found == language)
