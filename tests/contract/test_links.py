"""Every link of a page to a file or a heading of this repository leads somewhere, as does what code names."""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What is made here or fetched, and begins with a dot: environments, caches.
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in page.relative_to(ROOT).parts) and "build" not in page.parts
)
SOURCES = sorted((ROOT / "otel_connect").rglob("*.py"))

_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_ANCHOR = re.compile(r'<a id="([^"]+)">')
_NAMED = re.compile(r"docs/[\w/.-]+\.md(?:#[\w-]+)?")


def slug(heading: str) -> str:
    """Name a heading as GitHub does; a link in it counts with its words alone."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")


def anchors(text: str) -> list[str]:
    """List what a page can be entered at; GitHub numbers headings that are there twice."""
    text = _FENCE.sub("", text)
    seen: Counter[str] = Counter()
    found = _ANCHOR.findall(text)
    for heading in _HEADING.findall(text):
        name = slug(heading)
        found.append(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


@cache
def anchors_of(page: Path) -> frozenset[str]:
    return frozenset(anchors(page.read_text(encoding="utf-8")))


def broken(target: str, page: Path) -> str | None:
    """Say what is wrong with a link on a page, ``None`` if nothing is or it leads out of the repository."""
    if re.match(r"[a-z]+:", target):
        return None
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    if not there.is_relative_to(ROOT) or not there.exists():
        return f"{target}: no such file"
    if anchor and (there.suffix != ".md" or anchor not in anchors_of(there)):
        return f"{target}: no such heading"
    return None


def links(text: str) -> list[str]:
    return _LINK.findall(_CODE.sub("", _FENCE.sub("", text)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    found = links(page.read_text(encoding="utf-8"))
    assert [problem for target in found if (problem := broken(target, page))] == []


def test_pages_that_code_names_are_there() -> None:
    named = {(name, source) for source in SOURCES for name in _NAMED.findall(source.read_text(encoding="utf-8"))}
    assert named
    problems = [f"{source.name}: {problem}" for name, source in named if (problem := broken(name, ROOT / "README.md"))]
    assert problems == []


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("docs/install.md", None),
        ("docs/install.md#upgrade", None),
        ("#what-it-costs", None),
        ("https://example.com/#nowhere", None),
        ("docs/instal.md", "docs/instal.md: no such file"),
        ("../elsewhere.md", "../elsewhere.md: no such file"),
        ("docs/install.md#downgrade", "docs/install.md#downgrade: no such heading"),
        ("Makefile#test", "Makefile#test: no such heading"),
    ],
)
def test_broken_links_are_found(target: str, problem: str | None) -> None:
    assert broken(target, ROOT / "README.md") == problem


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("## What `run` does, and why\n", ["what-run-does-and-why"]),
        ("# [0.1.0](x.md) – now\n", ["010--now"]),
        ("## Twice\n## Twice\n", ["twice", "twice-1"]),
        ('| <a id="filtered"></a>`filtered` |\n', ["filtered"]),
        ("```sh\n# no heading\n```\n", []),
    ],
)
def test_anchors_are_named_as_github_does(text: str, names: list[str]) -> None:
    assert anchors(text) == names
