"""The small changes of a module: numbers, comparisons, conditions, operators, statements, tables, the order of lists.

Texts are left alone: what is said is held by tests/contract. Pure: a source in, changed sources out.
"""

import ast
from collections.abc import Iterator
from typing import NamedTuple

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}
_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Pow: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
    ast.LShift: ">>",
    ast.RShift: "<<",
}
_OTHER_FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}


class Mutant(NamedTuple):
    """One change."""

    where: str
    """The function it is in, or ``module``."""
    change: str
    """The changed line before and after, or what was left out of a table."""
    source: str
    """The whole module after it."""


class _Edit(NamedTuple):
    node: ast.AST
    text: str
    shown: str = ""
    """What is said of it, where that is not the changed line."""


def mutants(source: str) -> list[Mutant]:
    """Make all mutants of a module, in the order of its lines."""
    found = []
    for where, edit in _edits(ast.parse(source), source, "module"):
        start, end = _span(source, edit.node)
        changed = source[:start] + edit.text + source[end:]
        change = edit.shown or f"{_line(source, start)} → {_line(changed, start)}"
        found.append((start, Mutant(where, change, changed)))
    return [mutant for _, mutant in sorted(found, key=lambda one: one[0])]


def _edits(node: ast.AST, source: str, where: str) -> Iterator[tuple[str, _Edit]]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        where = node.name if where == "module" else f"{where}.{node.name}"
    for edit in (*_of_statement(node, source), *_of_expression(node, source)):
        yield where, edit
    for child in _children(node):
        yield from _edits(child, source, where)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Go on to what is run: not to annotations, decorators, docstrings or what is only formatted."""
    skipped: list[ast.AST | None] = []
    match node:
        case ast.FunctionDef():
            skipped = [*node.decorator_list, node.returns, *(argument.annotation for argument in node.args.args)]
            skipped += [argument.annotation for argument in node.args.kwonlyargs]
        case ast.ClassDef():
            skipped = [*node.bases, *node.decorator_list]
        case ast.AnnAssign():
            skipped = [node.annotation]
        case ast.JoinedStr():
            return
    for child in ast.iter_child_nodes(node):
        if not any(child is one for one in skipped):
            yield child


def _of_statement(node: ast.AST, source: str) -> Iterator[_Edit]:
    match node:
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.AugAssign() | ast.Delete():
            yield _Edit(node, "pass")
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            yield _Edit(node, "pass")
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield _Edit(value, "None")
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            if not isinstance(test, ast.UnaryOp | ast.Compare):  # what these are is changed already
                yield _Edit(test, f"(not ({_text(source, test)}))")


def _of_expression(node: ast.AST, source: str) -> Iterator[_Edit]:
    match node:
        case ast.Constant(value=bool() as value):
            yield _Edit(node, str(not value))
        case ast.Constant(value=int() | float() as number):
            yield from (_Edit(node, repr(other)) for other in _other_numbers(number))
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            yield _Edit(node, f"({_text(source, left)} {_COMPARISONS[type(operator)]} {_text(source, right)})")
        case ast.Compare(left=left, comparators=[middle, right]):
            yield _Edit(node, f"({_text(source, left)} <= {_text(source, middle)})")
            yield _Edit(node, f"({_text(source, middle)} <= {_text(source, right)})")
        case ast.BoolOp(op=operator, values=values):
            word = " or " if isinstance(operator, ast.And) else " and "
            yield _Edit(node, "(" + word.join(f"({_text(source, value)})" for value in values) + ")")
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield _Edit(node, f"({_text(source, operand)})")
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            yield _Edit(node, f"({_text(source, left)} {_OPERATORS[type(operator)]} {_text(source, right)})")
        case ast.Call(func=ast.Name(id=name) as function) if name in _OTHER_FUNCTIONS:
            yield _Edit(function, _OTHER_FUNCTIONS[name])
        case ast.Dict() | ast.Set() | ast.List(ctx=ast.Load()):
            yield from _of_entries(node, source)


def _of_entries(node: ast.Dict | ast.Set | ast.List, source: str) -> Iterator[_Edit]:
    """Leave an entry of a table out; have two neighbours in a list change places."""
    if isinstance(node, ast.List):
        yield from _swapped(node, source)
        return
    if isinstance(node, ast.Set):
        entries = [_text(source, entry) for entry in node.elts]
    elif all(node.keys):
        entries = [
            f"{_text(source, key)}: {_text(source, value)}"
            for key, value in zip(node.keys, node.values, strict=True)
            if key
        ]
    else:
        return
    if len(entries) > 1:
        for left_out in range(len(entries)):
            rest = "{" + ", ".join(entries[:left_out] + entries[left_out + 1 :]) + "}"
            yield _Edit(node, rest, f"without {entries[left_out]}")


def _swapped(node: ast.List, source: str) -> Iterator[_Edit]:
    entries = [_text(source, entry) for entry in node.elts]
    for first in range(len(entries) - 1):
        order = [*entries[:first], entries[first + 1], entries[first], *entries[first + 2 :]]
        yield _Edit(node, f"[{', '.join(order)}]", f"{entries[first + 1]} before {entries[first]}")


def _other_numbers(number: float) -> tuple[float, ...]:
    if number in {0, 1}:
        return (number + 1,)
    if abs(number) < 5:
        return number + 1, number - 1
    return number * 5, number // 5 if isinstance(number, int) else number / 5


def _text(source: str, node: ast.AST) -> str:
    start, end = _span(source, node)
    return source[start:end]


def _span(source: str, node: ast.AST) -> tuple[int, int]:
    assert isinstance(node, ast.expr | ast.stmt)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return _at(source, node.lineno, node.col_offset), _at(source, node.end_lineno, node.end_col_offset)


def _at(source: str, line: int, column: int) -> int:
    """Where a position of the parser, which counts bytes, is in the text."""
    lines = source.splitlines(keepends=True)
    return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())


def _line(source: str, at: int) -> str:
    start = source.rfind("\n", 0, at) + 1
    end = source.find("\n", at)
    return source[start : end if end >= 0 else None].strip()
