"""Files that a configuration names: what is no regular file is refused at once, whoever would have read it."""

import errno
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from otel_connect.checks import problems
from otel_connect.config import Configuration, Layer, file_layer, load
from otel_connect.config.files import check_file, read_file
from otel_connect.enrich.kubelet import KubeletClient, NoAnswer
from otel_connect.errors import ConfigError
from tests.support.agent import COMMAND

WAITS_S = 10.0
"""Long enough for a busy machine: what waits for somebody waits for ever."""


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_linked_pipe(path: Path) -> None:
    a_pipe(path.with_name("pipe"))
    path.symlink_to("pipe")


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


def linked(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pipe": (a_pipe, "it is a pipe, not a regular file"),
    "a linked pipe": (a_linked_pipe, "it is a pipe, not a regular file"),
    "a socket": (a_socket, "No such device or address"),
    "no end": (linked("/dev/zero"), "it is a device, not a regular file"),
    "random": (linked("/dev/urandom"), "it is a device, not a regular file"),
    "a terminal": (linked("/dev/ptmx"), "it is a device, not a regular file"),
    "a folder": (Path.mkdir, "Is a directory"),
}


@contextmanager
def in_time() -> Iterator[None]:
    """End the test run if a read waits for somebody: nothing else ends such a read."""
    done = threading.Event()

    def watch() -> None:
        if not done.wait(WAITS_S):
            os._exit(99)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", [read_file, check_file])
def test_what_is_no_regular_file_is_refused_at_once(
    kind: str, read: Callable[[Path, int], object], tmp_path: Path
) -> None:
    make, said = KINDS[kind]
    make(tmp_path / "file")
    with in_time(), pytest.raises(OSError, match=said) as caught:
        read(tmp_path / "file", 1 << 20)
    assert caught.value.strerror == said


def test_a_regular_file_is_read_whole_and_a_larger_one_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100_000)
    assert read_file(file, 100_000) == b"x" * 100_000
    check_file(file, 100_000)
    for read in (read_file, check_file):
        with pytest.raises(OSError, match="larger than 99999 bytes") as caught:
            read(file, 99_999)
        assert caught.value.errno == errno.EFBIG


def test_a_file_of_proc_has_no_size_and_is_read_all_the_same() -> None:
    assert read_file(Path("/proc/self/comm"), 100) == Path("/proc/self/comm").read_bytes()
    with pytest.raises(OSError, match="larger than 2 bytes"):
        read_file(Path("/proc/self/comm"), 2)


PLACES: dict[str, tuple[dict[str, object], str]] = {
    "enrich.mask_key_file": ({"enrich.mask_addresses": "hash"}, "enrich.mask_key_file: FILE cannot be read (SAID)"),
    "enrich.kubelet_certificate": (
        {"enrich.kubelet_url": "https://127.0.0.1:1"},
        "enrich.kubelet_certificate: FILE cannot be read (SAID)",
    ),
    "export.certificate": (
        {"export.endpoint": "https://127.0.0.1:1"},
        "export.certificate: FILE: certificate cannot be read (SAID)",
    ),
    "export.logs.certificate": (
        {"export.endpoint": "https://127.0.0.1:1"},
        "export.logs.certificate: FILE: certificate cannot be read (SAID)",
    ),
    "export.client_certificate": (
        {"export.endpoint": "https://127.0.0.1:1", "export.client_key": "/dev/null"},
        "export.client_certificate: FILE, /dev/null: client certificate and key cannot be read (SAID)",
    ),
    "export.client_key": (
        {"export.endpoint": "https://127.0.0.1:1", "export.client_certificate": "CERTIFICATE"},
        "export.client_certificate: CERTIFICATE, FILE: client certificate and key cannot be read (SAID)",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", PLACES)
def test_each_key_that_names_a_file_refuses_it_in_one_line(key: str, kind: str, tmp_path: Path) -> None:
    make, said = KINDS[kind]
    file, certificate = tmp_path / "file", tmp_path / "certificate"
    make(file)
    certificate.touch()
    more, line = PLACES[key]
    values = {**more, key: str(file)}
    values = {name: str(certificate) if value == "CERTIFICATE" else value for name, value in values.items()}
    with in_time(), pytest.raises(ConfigError) as caught:
        load(Configuration, [Layer(values, {name: name for name in values})], problems)
    expected = line.replace("FILE", str(file)).replace("CERTIFICATE", str(certificate)).replace("SAID", said)
    (found,) = caught.value.problems
    assert found.startswith(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_that_is_no_regular_file_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    make, said = KINDS[kind]
    make(tmp_path / "file")
    with in_time():
        found = file_layer(tmp_path / "file")
    assert list(found.problems) == [f"{tmp_path / 'file'}: cannot be read ({said}); name a readable file"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_that_is_no_regular_file_is_no_answer(kind: str, tmp_path: Path) -> None:
    make, said = KINDS[kind]
    make(tmp_path / "file")
    ask = KubeletClient("https://127.0.0.1:1", tmp_path / "file", None)
    with in_time(), pytest.raises(NoAnswer, match=said):
        ask()


@pytest.mark.parametrize("name", ["/dev/stdin", "FIFO"])
def test_the_command_does_not_wait_for_a_pipe(name: str, tmp_path: Path) -> None:
    a_pipe(tmp_path / "pipe")
    file = name.replace("FIFO", str(tmp_path / "pipe"))
    with subprocess.Popen([COMMAND, "validate", "--config", file], stdin=-1, stdout=-1, stderr=-1, text=True) as child:
        try:
            assert child.wait(30) == 2
        except BaseException:
            child.kill()
            raise
        assert child.stderr is not None
        assert child.stderr.read().splitlines() == [
            f"otel-connect: {file}: cannot be read (it is a pipe, not a regular file); name a readable file"
        ]
