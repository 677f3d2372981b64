"""Where spools lie, and who gets which."""

from pathlib import Path

import pytest

from otel_connect.errors import SpoolInUseError
from otel_connect.plugin.slots import refused, slots, spool_root, take_slot

HOME = Path("/home/alice")


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({}, "/home/alice/.local/state/otel-connect/spool/unknown_service"),
        ({"OTEL_CONNECT_SPOOL_DIRECTORY": " "}, "/home/alice/.local/state/otel-connect/spool/unknown_service"),
        ({"OTEL_CONNECT_SPOOL_DIRECTORY": "/var/spool/shop"}, "/var/spool/shop"),
        ({"OTEL_CONNECT_SPOOL_DIRECTORY": "spool"}, "/home/alice/.local/state/otel-connect/spool/unknown_service"),
        ({"XDG_STATE_HOME": "/state"}, "/state/otel-connect/spool/unknown_service"),
        ({"XDG_STATE_HOME": "state"}, "/home/alice/.local/state/otel-connect/spool/unknown_service"),
        ({"OTEL_SERVICE_NAME": "shop"}, "/home/alice/.local/state/otel-connect/spool/shop"),
        ({"OTEL_SERVICE_NAME": "../x/.."}, "/home/alice/.local/state/otel-connect/spool/%2E%2E%2Fx%2F%2E%2E"),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "a=b, service.name = shop", "XDG_STATE_HOME": "/s"},
            "/s/otel-connect/spool/shop",
        ),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "service.name=b", "OTEL_SERVICE_NAME": "a", "XDG_STATE_HOME": "/s"},
            "/s/otel-connect/spool/a",
        ),
    ],
)
def test_where_the_slots_are(environ: dict[str, str], root: str) -> None:
    assert str(spool_root(environ, HOME)) == root


@pytest.mark.parametrize(
    "directory", ["spool", "./spool", "../spool", "~/spool", "/spool\n", "/a\x1b[2Jb", "file:///spool"]
)
def test_a_directory_that_is_not_the_same_everywhere_is_refused(directory: str) -> None:
    environ = {"OTEL_CONNECT_SPOOL_DIRECTORY": f"{directory}x", "OTEL_SERVICE_NAME": "shop"}
    assert refused(environ) == f"OTEL_CONNECT_SPOOL_DIRECTORY: must be an absolute path, not {directory + 'x'!r}"
    assert spool_root(environ, HOME) == HOME / ".local/state/otel-connect/spool/shop"


@pytest.mark.parametrize("environ", [{}, {"OTEL_CONNECT_SPOOL_DIRECTORY": " "}, {"OTEL_CONNECT_SPOOL_DIRECTORY": "/s"}])
def test_a_directory_that_can_be_used_is_not_refused(environ: dict[str, str]) -> None:
    assert refused(environ) == ""


def test_the_first_free_slot_is_taken() -> None:
    def open_in(slot: Path) -> Path:
        if int(slot.name) < 3:
            raise SpoolInUseError(["in use"])
        return slot

    assert take_slot(Path("/s"), open_in) == Path("/s/3")


def test_there_is_an_end_to_it() -> None:
    def open_in(slot: Path) -> Path:
        raise SpoolInUseError([f"{slot} is in use"])

    assert take_slot(Path("/s"), open_in) is None


def test_slots_are_found_in_their_order(tmp_path: Path) -> None:
    for name in ("10", "2", "0", "other"):
        (tmp_path / name).mkdir()
    assert [slot.name for slot in slots(tmp_path)] == ["0", "2", "10"]
    assert slots(tmp_path / "absent") == []
