"""Change the deciding modules in one place at a time, and see whether their tests notice.

    python -m tests.mutation [NAME …]      the modules with these names, else all

A mutant survives if the tests of its module pass all the same. Each survivor stands in survivors.toml, with the reason;
one that does not, and one that is noticed now, fails the run, as does a module of which less than nine tenths are
noticed. Why this is no library: docs/decisions/0062-mutants-of-our-own.md.
"""

import importlib
import importlib.abc
import importlib.util
import os
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from tests.mutation.mutants import Mutant, mutants

ROOT = Path(__file__).parents[2]
SURVIVORS = Path(__file__).with_name("survivors.toml")
ENOUGH = 0.9
_AT_ONCE = 3 * (os.cpu_count() or 1)  # those that make a test wait for what never comes take no processor
_OURS = ("otel_connect", "tests")
_UNIT = "tests/unit/test_"
_MESSAGES = f"{_UNIT}config_messages.py"

TESTS: Mapping[str, Sequence[str]] = {
    "capture/outcome": [f"{_UNIT}outcome.py"],
    "enrich/superseded": [f"{_UNIT}superseded.py"],
    "capture/limits": [f"{_UNIT}limits.py"],
    "capture/throttles": [f"{_UNIT}throttles.py"],
    "export/answer": [
        f"{_UNIT}answer.py",
        # Hypothesis takes seconds to fail, and everything they would notice is in the tables.
        f"--deselect={_UNIT}answer.py::test_printable_never_steers_a_terminal",
        f"--deselect={_UNIT}answer.py::test_no_http_answer_raises",
        f"--deselect={_UNIT}answer.py::test_no_grpc_answer_raises",
    ],
    "export/fates": [f"{_UNIT}fates.py"],
    "export/sender": [
        f"{_UNIT}turns.py",
        f"{_UNIT}sender.py",
        "--deselect=tests/unit/test_sender.py::test_an_exporter_really_pauses_for_one_second_and_then_for_two",
        "tests/fault/test_durable_delivery.py::test_those_that_failed_together_do_not_go_on_trying_together",
        "tests/fault/test_durable_delivery.py::test_close_has_its_last_try_while_another_thread_tries_for_all",
    ],
    "config/layers": [
        f"{_UNIT}config.py",
        f"{_UNIT}config_messages.py",
        f"--deselect={_UNIT}config.py::test_no_file_content_raises_anything_but_its_problems",
        f"--deselect={_MESSAGES}::test_nothing_of_the_library_is_said_and_the_place_always",
        f"--deselect={_MESSAGES}::test_no_value_is_turned_into_a_number_or_a_switch",
    ],
    "environment": [
        f"{_UNIT}environment.py",
        f"{_MESSAGES}::test_what_only_follows_from_another_error_is_not_said",
    ],
    "export/endpoint": [f"{_UNIT}endpoint.py", f"{_UNIT}environment.py"],
    "cli": [f"{_UNIT}cli.py"],
}
"""The tests of each module: those that are to notice, and quick."""

PARTS: Mapping[str, tuple[str, ...]] = {
    "cli": ("_layers", "_log_form", "_flag_layer"),
    "export/endpoint": ("output_kind", "resolve", "_endpoint"),
}
"""The functions that decide, of modules that do other things as well."""


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module a source of ours."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self._name, self._path, self._source = name, path, source

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name != self._name:
            return None
        return importlib.util.spec_from_file_location(name, self._path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, self._path, "exec"), module.__dict__)  # noqa: S102 - a module is made of it


def load_foreign(modules: Iterable[str]) -> None:
    """Load what tests need of other packages, so that no child has to; of ours nothing stays loaded."""
    for name in (*modules, "tests.support.delivery", "tests.conftest", "hypothesis.extra.pytestplugin"):
        with suppress(ImportError):
            importlib.import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] in _OURS and not name.startswith("tests.mutation")]:
        del sys.modules[name]


def passes(name: str, source: str, tests: Sequence[str], longest_s: float) -> bool:
    """Run the tests in a child with this source of the module; what takes longer does not pass."""
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        path = ROOT / f"{name.replace('.', '/')}.py"
        sys.meta_path.insert(0, _Mutated(name, path, source))
        code: int = 1
        try:
            code = pytest.main(
                ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning", *tests]
            )
        finally:
            os._exit(code)
    deadline = time.monotonic() + longest_s
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.02)


def survivors_of(module: str, tests: Sequence[str]) -> tuple[list[Mutant], int]:
    """Return the mutants that no test noticed, and how many there were in all."""
    name = f"otel_connect.{module.replace('/', '.')}"
    source = (ROOT / "otel_connect" / f"{module}.py").read_text(encoding="utf-8")
    began = time.monotonic()
    if not passes(name, source, tests, 600):
        sys.exit(f"{module}: its tests fail without any change")
    longest_s = 5 + 3 * (time.monotonic() - began)
    made = [mutant for mutant in mutants(source) if mutant.where.startswith(PARTS.get(module, ""))]
    survived = []
    with ThreadPoolExecutor(_AT_ONCE) as at_once:
        passed = at_once.map(lambda mutant: passes(name, mutant.source, tests, longest_s), made)
        for number, (mutant, survives) in enumerate(zip(made, passed, strict=True), 1):
            if survives:
                survived.append(mutant)
            print(f"\r{module}: {number - len(survived)} of {number} noticed", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return survived, len(made)


def known() -> dict[str, Counter[tuple[str, str]]]:
    """Read the survivors there may be, by module."""
    found: dict[str, Counter[tuple[str, str]]] = {}
    for entry in tomllib.loads(SURVIVORS.read_text(encoding="utf-8"))["survivor"]:
        assert entry["reason"].strip()
        found.setdefault(entry["module"], Counter())[entry["where"], entry["change"]] += entry.get("times", 1)
    return found


def complaints(module: str, survived: Sequence[Mutant], made: int, may: Counter[tuple[str, str]]) -> Iterator[str]:
    """Say what is wrong about a module."""
    found = Counter((mutant.where, mutant.change) for mutant in survived)
    for where, change in (found - may).elements():
        yield f"{module}: {where}: nobody notices: {change}"
    for where, change in (may - found).elements():
        yield f"{module}: {where}: is noticed now, take it out of {SURVIVORS.name}: {change}"
    if len(survived) > made * (1 - ENOUGH):
        yield f"{module}: only {made - len(survived)} of {made} are noticed"


def main(wanted: Sequence[str]) -> int:
    """Run the modules; returns the exit code."""
    os.chdir(ROOT)
    files = {test.partition("::")[0] for tests in TESTS.values() for test in tests if not test.startswith("-")}
    load_foreign(file.replace("/", ".").removesuffix(".py") for file in files)
    wrong = False
    for module, tests in TESTS.items():
        if wanted and module not in wanted:
            continue
        began = time.monotonic()
        survived, made = survivors_of(module, tests)
        print(f"{module}: {made - len(survived)} of {made} noticed, {time.monotonic() - began:.0f} s", flush=True)
        for complaint in complaints(module, survived, made, known().get(module, Counter())):
            print(complaint, flush=True)
            wrong = True
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
