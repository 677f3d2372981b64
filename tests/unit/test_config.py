"""Layers → one configuration, or every problem with its place."""

import functools
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from otel_connect.config import Configuration, Layer, Protocol, build, file_layer, load
from otel_connect.config.layers import _working_directory
from otel_connect.environment import environment_layer, state_layer
from otel_connect.errors import ConfigError


def layer(**values: Any) -> Layer:
    dotted = {key.replace("__", "."): value for key, value in values.items()}
    return Layer(dotted, {key: f"place of {key}" for key in dotted})


def problems(*layers: Layer) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        build(layers)
    return caught.value.problems


def test_nothing_gives_the_defaults() -> None:
    assert build([]) == Configuration()


def test_later_layers_win_key_by_key() -> None:
    first = layer(export__endpoint="http://a", export__timeout_ms=500)
    configuration = build([first, layer(export__endpoint="http://b"), layer(export__logs__protocol="grpc")])
    assert configuration.export.endpoint == "http://b"
    assert configuration.export.timeout_ms == 500
    assert configuration.export.logs.protocol is Protocol.GRPC


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Configuration().capture.ring_bytes = 1


def test_each_problem_names_the_place_of_the_value_that_counts() -> None:
    found = problems(
        layer(capture__ring_bytes=5000, capture__max_in_progress=0),
        Layer({"capture.ring_bytes": 6000}, {"capture.ring_bytes": "--ring"}, ["the file is damaged"]),
        layer(encode__color="red"),
    )
    assert len(found) == 4
    assert "the file is damaged" in found
    assert any(line.startswith("--ring: must be a power of two, for example 8192") for line in found)
    assert any(line.startswith("place of capture.max_in_progress:") for line in found)
    assert any(line.startswith("place of encode.color: no such key") for line in found)


def test_what_set_a_value_is_named_in_problems_that_come_up_later() -> None:
    places = load(Configuration, [layer(export__endpoint="http://a")]).places
    with pytest.raises(ConfigError) as caught, places.named():
        raise ConfigError(["export.endpoint: is wrong", "export.protocol: is, too", "all is"])
    assert caught.value.problems == ("place of export.endpoint: is wrong", "export.protocol: is, too", "all is")


def test_what_a_check_raises_is_said_as_what_it_returns() -> None:
    def check(_: Configuration) -> list[str]:
        raise ConfigError(["export.endpoint: is wrong", "all is"])

    with pytest.raises(ConfigError) as caught:
        load(Configuration, [layer(export__endpoint="http://a")], check)
    assert caught.value.problems == ("place of export.endpoint: is wrong", "all is")


def test_a_process_whose_directory_was_removed_starts_in_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert _working_directory() == Path("/")


def test_headers_are_never_shown() -> None:
    (line,) = problems(layer(export__headers={"authorization": ["hunter2"]}))
    assert "hunter2" not in line
    assert "hunter2" not in repr(build([layer(export__headers={"authorization": "hunter2"})]))


def test_header_names_may_hold_dots(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    for table in ("export", "export.logs", "export.metrics", "export.traces"):
        file.write_text(f'[{table}.headers]\n"x.y" = "z"\n')
        assert value(build([file_layer(file)]), f"{table}.headers") == {"x.y": "z"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff", "is not UTF-8 at byte 0"),
        (b"x", "is not valid TOML"),
        (b"a = 1\nb =\n", "line 2"),
        (b"a = " + b"9" * 5000, "too long"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "nested too deep"),
        (b"a." * 5000 + b"b = 1", "nested too deep"),
        (b"#" * (1 << 20) + b"\n", "is larger than 1 MiB"),
        (b'"a\\u001b\\nb" = 1', "'a\\x1b\\nb': no such key"),
        (b'"" = 1', ": '': no such key"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_problem(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(content)
    (line,) = problems(file_layer(file))
    assert line.startswith(str(file))
    assert said in line


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(b"\xef\xbb\xbf[export]\nqueue_bytes = 65536\n")
    assert build([file_layer(file)]).export.queue_bytes == 65536


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\x1b[31mb", "a\u2028b", "a\udcffb"])
def test_a_problem_is_one_line_whatever_a_file_is_called(name: str, tmp_path: Path) -> None:
    shown = ascii(name)[1:-1]
    (line,) = problems(file_layer(tmp_path / name))
    assert line == f"{tmp_path}/{shown}: cannot be read (No such file or directory); name a readable file"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[exprt]\n", "exprt: no such key; did you mean export?"),
        ("[export.lgs]\n", "export.lgs: no such key; did you mean export.logs?"),
        ("[export]\nendpoint = {}\n", "export.endpoint: must be text in quotes"),
        ("[enrich.known_peers]\n", "enrich.known_peers: must be a list, in square brackets"),
        ("export.spool_directory = {}\n", "export.spool_directory: must be text in quotes"),
    ],
)
def test_an_empty_table_is_checked_too(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(content)
    assert problems(state_layer({"STATE_DIRECTORY": "/state"}), file_layer(file)) == (f"{file}: {said}",)


@pytest.mark.parametrize("content", ["[export]\n", "[export.logs]\n", "[capture]\n[export]\n[filter]\n"])
def test_an_empty_section_changes_nothing(content: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(content)
    before = state_layer({"STATE_DIRECTORY": "/state"})
    assert build([before, file_layer(file)]).model_dump() == build([before]).model_dump()


def test_an_empty_table_of_headers_replaces_what_was_there() -> None:
    assert build([layer(export__headers={"a": "1"}), layer(export__headers={})]).export.headers == {}


@pytest.mark.parametrize("key", ["timeout_ms", "metric_interval_ms", "spool_bytes", "queue_bytes", "request_bytes"])
def test_numbers_that_nothing_can_hold_are_refused(key: str) -> None:
    (line,) = problems(Layer({f"export.{key}": 10**24}, {f"export.{key}": key}))
    assert re.search(r"must be \d+ or less, not 10{24}$", line)


def test_a_file_name_that_the_system_does_not_take_is_refused() -> None:
    (line,) = problems(layer(export__certificate="/a\0b"))
    assert "must be the name of a file" in line


@pytest.mark.parametrize("address", ["unix:/a\0b", "unix:/\udcff", "a..b:80", "x" * 300 + ":80", "\udcff:80"])
def test_addresses_that_the_system_does_not_take_are_refused(address: str) -> None:
    (line,) = problems(layer(serve__listen=address))
    assert "must " in line


STRANGE = (
    "https://a b:1/",
    "https://a\x1bb:1/",
    "https://..:1/",
    "https://a\u202eb:1",
    "https://[a]:1",
    'https://a"b:1',
)


@pytest.mark.parametrize(
    "url", ["node-7:10250", "file:///etc/passwd", "https://", "https://a:x", "https://a:0", "", *STRANGE]
)
def test_what_is_no_url_of_a_kubelet_is_refused(url: str) -> None:
    (line,) = problems(layer(enrich__kubelet_url=url))
    assert "must be a URL, for example https://node-7:10250" in line


def test_long_values_are_cut_and_tables_not_shown() -> None:
    (long,) = problems(layer(export__protocol="x" * 10_000))
    assert len(long) < 300
    (table,) = problems(layer(export__endpoint=["http://user:hunter2@host"]))
    assert "hunter2" not in table


@given(st.text(max_size=80))
def test_no_file_content_raises_anything_but_its_problems(content: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "c.toml"
        file.write_text(content, encoding="utf-8", errors="replace")
        try:
            build([file_layer(file)])
        except ConfigError as error:
            assert all(str(file) in line for line in error.problems)


READ = {
    **{
        f"export{scope}.{name}": f"OTEL_EXPORTER_OTLP_{scope[1:].upper()}{'_' if scope else ''}{name.upper()}"
        for scope in ("", ".logs", ".metrics", ".traces")
        for name in ("certificate", "client_certificate", "client_key")
    },
    **dict.fromkeys(("enrich.kubelet_token_file", "enrich.kubelet_certificate", "enrich.mask_key_file"), ""),
}
"""Every option that names a file to be read, with its variable."""


def value(configuration: Configuration, key: str) -> object:
    return functools.reduce(getattr, key.split("."), configuration)


def test_every_option_of_a_file_is_among_these() -> None:
    def files(section: type[BaseModel], path: str) -> Iterator[str]:
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from files(field.annotation, f"{path}{name}.")
            elif "Path" in str(field.annotation) or field.annotation is Path:
                yield f"{path}{name}"

    assert sorted(files(Configuration, "")) == sorted(READ)


@pytest.mark.parametrize("key", READ)
def test_a_file_that_is_read_is_taken_from_where_the_process_was_started(key: str, tmp_path: Path) -> None:
    table, _, name = key.rpartition(".")
    file = tmp_path / "agent.toml"
    for given_, found in (("own.pem", "/start/own.pem"), ("../own.pem", "/start/../own.pem"), ("/own.pem", "/own.pem")):
        file.write_text(f'[{table}]\n{name} = "{given_}"\n')
        assert value(build([file_layer(file)], Path("/start")), key) == Path(found)
        if variable := READ[key]:
            assert value(build([environment_layer({variable: given_})], Path("/start")), key) == Path(found)
    file.write_text(f'[{table}]\n{name} = ""\n')
    assert problems(file_layer(file)) == (f"{file}: {key}: must be the name of a file, not ''",)


@pytest.mark.parametrize("directory", ["spool", "./spool", "~/spool", "spool\\n"])
def test_a_directory_that_is_written_to_is_the_same_everywhere(directory: str, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f'export.spool_directory = "{directory}"\nserve.listen = "unix:{directory}"\n')
    first, second = problems(file_layer(file))
    assert first.startswith(f"{file}: export.spool_directory: must be an absolute path, or empty for memory only")
    assert second.startswith(f"{file}: serve.listen: must name an absolute path")
