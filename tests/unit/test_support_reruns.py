"""Running again what failed while an end was hidden: runs of pytest in which the size of a file says how many were."""

import pytest

CONFTEST = """
from pathlib import Path

from tests.support.reruns import Reruns

def pytest_configure(config):
    config.pluginmanager.register(Reruns(lambda: Path("hidden").stat().st_size))
"""
HEAD = """
import pytest
from pathlib import Path

def hide():
    turn("hidden")

def turn(name):
    with Path(name).open("a+") as file:
        file.write("x")
        return file.tell()

"""


def run(pytester: pytest.Pytester, body: str, *arguments: str) -> pytest.RunResult:
    pytester.makeconftest(CONFTEST)
    pytester.path.joinpath("hidden").write_text("seven")
    pytester.makepyfile(HEAD + body)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "--strict-markers", *arguments)


def turns(pytester: pytest.Pytester, name: str) -> int:
    return len(pytester.path.joinpath(name).read_text())


def test_a_test_is_run_once_more_and_its_first_failure_is_shown(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        @pytest.mark.captures
        def test_it():
            if turn("it") == 1:
                hide()
                assert "what was" == "missing"
        """.replace("\n        ", "\n"),
    )
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.OK
    assert turns(pytester, "it") == 2
    result.stdout.fnmatch_lines(
        ["*run again*: 1, at most 3*", "*::test_it failed at first (call):", "*assert 'what was' == 'missing'"]
    )


@pytest.mark.parametrize(
    ("marker", "hides", "runs"),
    [("captures", True, 2), ("captures", False, 1), ("slow", True, 1)],
    ids=["fails again", "nothing was hidden", "not marked"],
)
def test_a_failure_that_is_the_tests_own_stays_one(
    pytester: pytest.Pytester, marker: str, hides: bool, runs: int
) -> None:
    body = f"""
@pytest.mark.{marker}
def test_it():
    turn("it")
    {"hide()" if hides else ""}
    assert False
"""
    result = run(pytester, body, "-o", "markers=slow")
    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert turns(pytester, "it") == runs


def test_what_was_hidden_during_an_earlier_test_excuses_nothing(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
pytestmark = pytest.mark.captures

@pytest.fixture(scope="module")
def shared():
    return 1

def test_first(shared):
    hide()

def test_second(shared):
    turn("second")
    assert False
""",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert turns(pytester, "second") == 1


@pytest.mark.parametrize("fails_in", ["fixture", "test"])
def test_evidence_that_was_taken_for_several_tests_is_taken_again(pytester: pytest.Pytester, fails_in: str) -> None:
    result = run(
        pytester,
        f"""
pytestmark = pytest.mark.captures(shared=True)

@pytest.fixture(scope="module")
def captured():
    missing = turn("captured") == 1
    if missing:
        hide()
        assert {fails_in == "test"}
    return missing

def test_first(captured):
    pass

def test_second(captured):
    assert not captured
""",
    )
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.OK
    assert turns(pytester, "captured") == 2 if fails_in == "test" else turns(pytester, "captured") > 1


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_fourth_failure_fails_the_run(pytester: pytest.Pytester, workers: str) -> None:
    result = run(
        pytester,
        """
@pytest.mark.captures
@pytest.mark.parametrize("number", range(4))
def test_it(number):
    if turn(f"it-{number}") == 1:
        hide()
        assert False
""",
        "-n",
        workers,
    )
    result.assert_outcomes(passed=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert [turns(pytester, f"it-{number}") for number in range(4)] == [2] * 4
    result.stdout.fnmatch_lines(["*run again*: 4, at most 3*"])


def test_a_teardown_that_fails_as_well_is_one_run_more(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.fixture
def agent():
    yield
    assert turn("agent") > 1

@pytest.mark.captures
def test_it(agent):
    if turn("it") == 1:
        hide()
        assert False
""",
    )
    result.assert_outcomes(passed=1)
    assert (turns(pytester, "agent"), turns(pytester, "it")) == (2, 2)
    result.stdout.fnmatch_lines(["*run again*: 1, at most 3*"])
