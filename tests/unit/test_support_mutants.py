"""The mutants of a module: each is one change, each compiles, and what is only said or declared is left alone."""

import ast

import pytest

from tests.mutation.mutants import mutants


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("a = 0", ["a = 1"]),
        ("a = 3", ["a = 4", "a = 2"]),
        ("a = 30", ["a = 150", "a = 6"]),
        ("a = 2.5", ["a = 3.5", "a = 1.5"]),
        ("a = b < c", ["a = (b <= c)"]),
        ("a = b in c", ["a = (b not in c)"]),
        ("a = 0 <= b < 1", ["a = (0 <= b)", "a = (b <= 1)", "a = 1 <= b < 1", "a = 0 <= b < 2"]),
        ("a = b and c", ["a = ((b) or (c))"]),
        ("a = not b", ["a = (b)"]),
        ("a = b + c", ["a = (b - c)"]),
        ("a = min(b, c)", ["a = max(b, c)"]),
        ("a = True", ["a = False"]),
        ("a.b = c", ["pass"]),
        ("del a.b", ["pass"]),
        ("f(a)", ["pass"]),
        ("if a: b = c", ["if (not (a)): b = c"]),
        (
            "def f(a: int = 7) -> int:\n    return a",
            ["def f(a: int = 35) -> int:", "def f(a: int = 1) -> int:", "return None"],
        ),
        ("a = {b: c, d: e}", ["without b: c", "without d: e"]),
        ("a = [b, *c, d]", ["*c before b", "d before *c"]),
        ('"""Says 5."""\nä = "5"; b = f"{c:5}"', []),
        ("@cache(5)\nclass A(B[5]):\n    c: D[5]", []),
        ('é = "é"; a = 0', ['é = "é"; a = 1']),
    ],
)
def test_one_change_at_a_time(source: str, changes: list[str]) -> None:
    made = mutants(source)
    assert sorted(mutant.change.rpartition(" → ")[2] for mutant in made) == sorted(changes)
    for mutant in made:
        ast.parse(mutant.source)
        assert mutant.source != source


def test_where_a_change_is() -> None:
    made = mutants("class A:\n    def b(self):\n        return 1\n\nc = 0")
    assert {mutant.where for mutant in made} == {"A.b", "module"}
