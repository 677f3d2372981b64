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
    assert (len(shown), shown[0]) == (len(arguments), arguments[0])


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
    "quotes": lambda size: ["tool", "password" + "\"' " * size],
}


@pytest.mark.parametrize("kind", GROWING)
def test_twice_the_input_takes_twice_the_time(kind: str) -> None:
    small, large = 2_000, 16_000  # eight times: 8 is linear, 64 is quadratic
    ratio = min(_cpu(GROWING[kind](large)) / _cpu(GROWING[kind](small)) for _ in range(5))
    assert ratio < 24


def _cpu(arguments: list[str]) -> float:
    """Time of this thread, the best of three, so that other work on the machine does not count."""
    times = []
    for _ in range(3):
        began = time.thread_time_ns()
        redact(arguments)
        times.append(time.thread_time_ns() - began)
    return max(min(times), 1)
