"""The names of error numbers, against the C headers of this machine and against strace's own table."""

import re
import subprocess

import pytest

from otel_connect.encode.attributes import outcome_attributes
from otel_connect.errnos import errno_name
from otel_connect.model import Outcome, Verdict

_MOST = 4095  # MAX_ERRNO of the kernel
_INTERNAL = range(512, 532)


@pytest.fixture(scope="module")
def headers() -> dict[int, str]:
    """Return the numbers that <asm/errno.h> gives names to; what it defines by another name is no name of its own."""
    argv = ["gcc", "-dM", "-E", "-include", "asm/errno.h", "-xc", "/dev/null"]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return {int(number): name for name, number in re.findall(r"^#define (E[A-Z0-9]+) (\d+)$", said, re.MULTILINE)}


@pytest.fixture(scope="module")
def strace() -> dict[int, str]:
    """Return what strace calls the numbers that the kernel uses inside: it makes one call of true fail with each."""
    found = {}
    for number in _INTERNAL:
        argv = ["strace", "-qq", "-e", "trace=close", "-e", f"inject=close:error={number}:when=1", "true"]
        said = subprocess.run(argv, check=False, capture_output=True, text=True).stderr
        if name := re.search(r"= (?:-1|\?) (E[A-Z_]+) ", said):
            found[number] = name[1]
    return found


def test_every_number_of_the_headers_has_the_name_that_the_kernel_gives_it(headers: dict[int, str]) -> None:
    assert len(headers) > 130
    assert {number: errno_name(number) for number in headers} == headers


def test_numbers_that_the_kernel_uses_inside_have_their_names(strace: dict[int, str]) -> None:
    assert strace[524] == "ENOTSUPP"
    assert len(strace) > 15
    younger = {519: "ENOPARAM"}  # of Linux 5.1, which strace does not know
    assert {number: errno_name(number) for number in _INTERNAL if errno_name(number)} == younger | strace


def test_no_other_number_has_a_name(headers: dict[int, str]) -> None:
    known = {number for number in range(_MOST + 1) if errno_name(number) is not None}
    assert known - set(_INTERNAL) == set(headers)


@pytest.mark.parametrize(
    ("number", "name"), [(95, "EOPNOTSUPP"), (11, "EAGAIN"), (35, "EDEADLK"), (512, "ERESTARTSYS")]
)
def test_a_record_has_the_name(number: int, name: str) -> None:
    assert dict(outcome_attributes(Verdict(Outcome.LOCAL_ERROR, number), False))["otel_connect.errno.name"] == name
