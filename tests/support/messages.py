"""Every text of the sources that an operator may read, found in their syntax trees.

A text is a literal with ``…`` for what is put in: ``f"{path}: cannot be read"`` is ``…: cannot be read``. It is a
message if it is passed to what complains (an exception of the house, a warning of a log), and else if it is a sentence:
three words or more, the first without a capital, as messages of the house are written and descriptions are not. So what
a helper returns is found as well, wherever it is said in the end.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from otel_connect import errors

PACKAGE = Path(__file__).resolve().parents[2] / "otel_connect"
GAP = "…"

NOT_FOR_OPERATORS: Mapping[str, str] = {
    "capture/layout.py": "a decoder's: the caller counts what cannot be decoded",
    "encode/line.py": "the text of an attempt: docs/signals.md",
    "encode/spans.py": "the status of a span: docs/signals.md",
    "enrich/conntrack.py": "a decoder's: the caller takes it for no answer",
    "enrich/redact.py": "tables of programs",
    "export/salvage.py": "a decoder's: the caller goes on with the next page",
    "serve/console.py": "the console's lines of attempts",
    "serve/summary.py": "the console's account of attempts",
}
"""Sentences in these are no messages; complaints in them are."""
NOT_COMPLAINTS = frozenset({"re.compile", "click.echo"})
"""What is passed to these is no message either: patterns, and what a command answers when all is well."""

_COMPLAINS = re.compile(r"(_log|logging\.getLogger\(.*\))\.(warning|error)|_refuse|(No)?Answer|Store\w*Error")
_COMPLAINT_WORDS, _SENTENCE_WORDS = 2, 3
_FORMAT = re.compile(r"%[+-]?[\d.]*[sdrf]")
_WORD = re.compile(r"(?<!\S)\(?[A-Za-z][a-z'-]+(?=[\s,;:.)?]|$)")
_AROUND = " :;,()\n"


class Text(NamedTuple):
    """A literal as it stands in the sources."""

    file: str
    """Below the package."""
    line: int
    template: str
    passed_to: tuple[str, ...]
    """What is called with it, from the outside in."""

    @property
    def pieces(self) -> list[str]:
        """What of it never differs."""
        return [bare for piece in self.template.split(GAP) if (bare := piece.strip(_AROUND))]

    @property
    def is_message(self) -> bool:
        """Whether an operator may read it."""
        words = len(_WORD.findall(self.template))
        if any(call in vars(errors) or _COMPLAINS.fullmatch(call) for call in self.passed_to):
            return words >= _COMPLAINT_WORDS
        if self.file in NOT_FOR_OPERATORS or NOT_COMPLAINTS.intersection(self.passed_to):
            return False
        return words >= _SENTENCE_WORDS and not self.template.strip(GAP + _AROUND)[:1].isupper()


def texts() -> list[Text]:
    """Find every literal of the package but docstrings."""
    return [
        Text(name, node.lineno, template, passed_to)
        for name, tree in _trees()
        for node, template, passed_to in _literals(tree, ())
    ]


def reasons_of_the_kernel() -> set[str]:
    """Find the keys of what the agent calls ``lost`` in its balance."""
    return {
        str(key.value)
        for _, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "lost" and isinstance(node.value, ast.Dict)
        for key in node.value.keys
        if isinstance(key, ast.Constant)
    }


def _trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text(encoding="utf-8"))


def _literals(node: ast.AST, passed_to: tuple[str, ...]) -> Iterator[tuple[ast.expr, str, tuple[str, ...]]]:
    if isinstance(node, ast.Constant | ast.JoinedStr) and (template := _template(node)) is not None:
        yield node, template, passed_to
    if isinstance(node, ast.Call):
        passed_to = (*passed_to, ast.unparse(node.func))
    for child in ast.iter_child_nodes(node):
        docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        part = isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)
        if not docstring and not part:
            yield from _literals(child, passed_to)


def _template(node: ast.Constant | ast.JoinedStr) -> str | None:
    if isinstance(node, ast.Constant):
        return _FORMAT.sub(GAP, node.value) if isinstance(node.value, str) else None
    return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
