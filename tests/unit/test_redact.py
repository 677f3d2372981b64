"""Secrets in command arguments: all of the corpus gone, hardly anything else touched, in linear time."""

import shlex
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_connect.enrich.redact import MASK, redact
from tests.support.redaction_corpus import harmless_lines, secret_lines

SECRETS = secret_lines()
HARMLESS = harmless_lines()


def test_the_corpus_is_large_enough() -> None:
    assert len(SECRETS) + len(HARMLESS) >= 300
    assert len({kind for kind, _, _ in SECRETS}) >= 25
    assert all(secret in " ".join(shlex.split(line)) for _, secret, line in SECRETS)


@pytest.mark.parametrize(("kind", "secret", "line"), SECRETS)
def test_every_secret_is_gone(kind: str, secret: str, line: str) -> None:
    arguments = shlex.split(line)
    shown = redact(arguments)
    assert not [argument for argument in shown if secret in argument], kind
    assert MASK in " ".join(shown)
    assert len(shown) == len(arguments)
    assert shown[0] == arguments[0] or kind.startswith("title")


def test_what_is_harmless_is_left_alone() -> None:
    touched = [line for line in HARMLESS if redact(shlex.split(line)) != tuple(shlex.split(line))]
    assert len(touched) <= 0.02 * len(HARMLESS), touched


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("mysql --user=root --password=x shop", "mysql --user=root --password=*** shop"),
        ("curl -u alice:x https://a/", "curl -u alice:*** https://a/"),
        ("psql postgresql://app:x@db/shop", "psql postgresql://app:***@db/shop"),
        ("curl -H 'X-Api-Key: x' https://a/", "curl -H 'X-Api-Key: ***' https://a/"),
        ("tool --token x --token y", "tool --token *** --token ***"),
        ("tool --password", "tool --password"),
        ("tool --password --verbose", "tool --password --verbose"),
        ("'sync  --password\tx  --verbose '", "'sync  --password\t***  --verbose '"),
        ("ssh h 'mysqldump -px shop'", "ssh h 'mysqldump -p*** shop'"),
        ("ssh h mysqldump -px shop", "ssh h mysqldump -p*** shop"),
        ("sh -c 'curl -u alice:x https://a/ | jq .'", "sh -c 'curl -u alice:*** https://a/ | jq .'"),
        ("sh -c \"app --token 'a b'; app run\"", "sh -c \"app --token '***'; app run\""),
        ("sh -c \"app --token '' run\"", "sh -c \"app --token '' run\""),
        ("sh -c 'mysql -px; redis-cli -p 6379'", "sh -c 'mysql -p*** redis-cli -p 6379'"),
        ("psql -c \"ALTER ROLE a PASSWORD 'x'; SELECT 1\"", "psql -c \"ALTER ROLE a PASSWORD '***'; SELECT 1\""),
    ],
)
def test_the_rest_of_the_line_stays_readable(line: str, shown: str) -> None:
    assert redact(shlex.split(line)) == tuple(shlex.split(shown))


@given(st.lists(st.text(max_size=40), max_size=6))
def test_any_line_has_as_many_elements_afterwards(arguments: list[str]) -> None:
    shown = redact(arguments)
    assert len(shown) == len(arguments)
    assert all(text == given or MASK in text for text, given in zip(shown, arguments, strict=True))


def test_nothing_is_nothing() -> None:
    assert redact([]) == ()


GROWING: dict[str, Callable[[int], list[str]]] = {
    "letters": lambda size: ["tool", "password" + "a" * size],
    "separators": lambda size: ["tool", "token" + "=:" * size],
    "weak names": lambda size: ["tool", "key=1 " * size],
    "empty secrets": lambda size: ["tool", "password= " * size],
    "urls": lambda size: ["tool", "://" * size],
    "users": lambda size: ["tool", "://" + "a:@" * size],
    "half tokens": lambda size: ["tool", "eyJ" * size],
    "half tokens with dots": lambda size: ["tool", "eyJaaaaaaaa." * size],
    "slashes": lambda size: ["tool", "token:" + "/a" * size + "!"],
    "digits": lambda size: ["tool", "1" * size + ":token"],
    "names": lambda size: ["tool", "a-" * size + "token=x"],
    "elements": lambda size: ["tool", *["--token"] * size],
    "joined": lambda size: ["tool", "-p" + "aB3" * size],
    "webhooks": lambda size: ["tool", "https://hooks.slack.com/services/" * size],
    "words": lambda size: ["a " * size + "--token"],
    "options in a text": lambda size: ["tool", "--token " * size],
    "secrets in a text": lambda size: ["tool", "--token x " * size],
    "joined in a text": lambda size: ["mysql", "mysql -px " * size],
    "open quotes": lambda size: ["tool", "--token 'x --token \"x " * size],
    "quotes in a text": lambda size: ["tool", "--token '\"'" * size + " '" * size],
    "blanks": lambda size: ["tool", "--token" + " " * size + "x" + " " * size],
    "operators": lambda size: ["tool", "a;|&(` " * size, ";" * size + "-p"],
    "programs": lambda size: ["sudo", *["mysql", "-px"] * size],
    "backslashes": lambda size: ["tool", "--token " + "\\" * size + " x"],
    "quotes": lambda size: ["tool", "password" + "\"' " * size],
}


@pytest.mark.parametrize("kind", GROWING)
def test_twice_the_input_takes_twice_the_time(kind: str) -> None:
    small, large = 1_000, 8_000  # eight times: 8 is linear, 64 is quadratic
    assert any(_cpu(GROWING[kind](large)) < 24 * _cpu(GROWING[kind](small)) for _ in range(5))


def _cpu(arguments: list[str]) -> float:
    """Time of this thread, the best of three, so that other work on the machine does not count."""
    times = []
    for _ in range(3):
        began = time.thread_time_ns()
        redact(arguments)
        times.append(time.thread_time_ns() - began)
    return max(min(times), 1)
