"""Tests that run alone: real runs of pytest with two workers, whose tests write down when they begin and end."""

from itertools import pairwise

import pytest

CONFTEST = """
from pathlib import Path

from tests.support.turns import Turns

def pytest_configure(config):
    config.pluginmanager.register(Turns(Path("test_one.py"), Path("test_two.py")))
"""
MODULE = """
import os
import time
from pathlib import Path

import pytest

def note(what):
    with Path("notes").open("a") as file:
        file.write(what + chr(10))

@pytest.mark.parametrize("number", range(20))
def test_it(number):
    note("begins")
    time.sleep(0.01)
    note("ends")
"""
ALONE = """
@pytest.mark.alone
def test_alone():
    note("alone begins")
    if os.fork() == 0:  # what it leaves behind holds no lock
        time.sleep(2)
        os._exit(0)
    time.sleep(0.3)
    note("alone ends")
"""
ALONE_FIRST = MODULE.replace("@pytest.mark.parametrize", ALONE + "\n@pytest.mark.parametrize")


def test_a_test_that_is_alone_meets_no_other(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_one=MODULE, test_two=ALONE_FIRST)
    result = pytester.runpytest_subprocess("-n2", "--dist=loadfile", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=41)
    notes = pytester.path.joinpath("notes").read_text().splitlines()
    began, ended = notes.index("alone begins"), notes.index("alone ends")
    assert ended == began + 1
    assert notes[:began].count("begins") == notes[:began].count("ends")
    # It did not come last: the others went on afterwards, at the same time as one another.
    assert "begins" in notes[ended:]
    assert any(one == following == "begins" for one, following in pairwise(notes))
