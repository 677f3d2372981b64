"""The file of what a backend refused: bounded, private, and never written through somebody's link."""

import json
import os
import stat
from pathlib import Path

from otel_connect.export.dead_letters import NAME, DeadLetters
from otel_connect.model import Request, Signal

REQUEST = Request(Signal.LOGS, bytes(300), 2)


def letters(path: Path) -> list[str]:
    return [json.loads(line)["reason"] for line in path.read_text().splitlines()]


def test_the_youngest_are_kept_in_two_files(tmp_path: Path) -> None:
    file = DeadLetters(tmp_path, limit_bytes=4000)
    for number in range(20):
        assert file.write(REQUEST, f"{number}") is None
    older, newer = letters(tmp_path / f"{NAME}.1"), letters(tmp_path / NAME)
    assert [*older, *newer] == [f"{number}" for number in range(20)][-len(older) - len(newer) :]
    assert sum(one.stat().st_size for one in tmp_path.iterdir()) <= 4000
    assert {stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()} == {0o600}


def test_what_is_too_large_or_cannot_be_written_is_told(tmp_path: Path) -> None:
    assert DeadLetters(tmp_path, limit_bytes=400).write(REQUEST, "no") == "it is larger than the file may become"
    (tmp_path / "file").touch()
    assert DeadLetters(tmp_path / "file").write(REQUEST, "no") == "Not a directory"


def test_a_link_is_moved_aside_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / NAME).symlink_to(tmp_path / "precious")
    assert DeadLetters(tmp_path).write(REQUEST, "no") is None
    assert (tmp_path / "precious").read_text() == "precious"
    assert letters(tmp_path / NAME) == ["no"]


def test_a_directory_that_must_not_be_used_stays_as_it_is(tmp_path: Path) -> None:
    foreign, link = tmp_path / "foreign", tmp_path / "link"
    foreign.mkdir()
    os.chown(foreign, 65534, 65534)
    link.symlink_to(tmp_path)
    assert "belongs to user 65534" in str(DeadLetters(foreign).write(REQUEST, "no"))
    assert "is a symbolic link" in str(DeadLetters(link).write(REQUEST, "no"))
    assert [*foreign.iterdir()] == []
    assert not (tmp_path / NAME).exists()
