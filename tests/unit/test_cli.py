"""The layers that the command gives a configuration: which wins where two say something of one key."""

from pathlib import Path

import pytest

from otel_connect.cli import _layers, _log_form
from otel_connect.config import Configuration, Layer, load

OTLP = "OTEL_EXPORTER_OTLP_"
SAID = {
    "state": {"STATE_DIRECTORY": "/state"},
    "file": "export.spool_directory = '/file'\nexport.endpoint = 'http://file'\nlog.format = 'json'\n",
    "environment": {f"{OTLP}ENDPOINT": "http://environment", "OTEL_CONNECT_LOG_FORMAT": "text"},
    "flags": {"export.endpoint": "http://flag", "log.format": "json", "export.protocol": None},
}


def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *sources: str, **variables: str) -> list[Layer]:
    for name in ("STATE_DIRECTORY", f"{OTLP}ENDPOINT", "OTEL_CONNECT_LOG_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    for source in ("state", "environment"):
        said = SAID[source] if source in sources else {}
        assert isinstance(said, dict)
        for name, value in said.items():
            monkeypatch.setenv(name, str(value))
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    file = tmp_path / "agent.toml"
    file.write_text(str(SAID["file"]))
    flags = SAID["flags"] if "flags" in sources else {}
    assert isinstance(flags, dict)
    return _layers(file if "file" in sources else None, flags)


@pytest.mark.parametrize(
    ("sources", "directory", "endpoint", "form"),
    [
        (["state"], "/state/spool", None, "text"),
        (["file"], "/file", "http://file", "json"),
        (["state", "file"], "/file", "http://file", "json"),
        (["file", "environment"], "/file", "http://environment", "text"),
        (["file", "flags"], "/file", "http://flag", "json"),
        (["environment", "flags"], "/var/lib/otel-connect/spool", "http://flag", "json"),
        (["state", "file", "environment", "flags"], "/file", "http://flag", "json"),
    ],
)
def test_flags_win_over_the_environment_over_the_file_over_the_unit(
    sources: list[str],
    directory: str,
    endpoint: str | None,
    form: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers = given(monkeypatch, tmp_path, *sources)
    configuration = load(Configuration, layers).configuration
    assert configuration.export.spool_directory == directory
    assert configuration.export.endpoint == endpoint
    assert configuration.log.format == _log_form(layers) == form


def test_an_endpoint_on_the_command_line_is_that_of_every_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = ("logs", "metrics", "traces")
    variables = {f"{OTLP}{signal.upper()}_ENDPOINT": "http://other" for signal in signals}
    loaded = load(Configuration, given(monkeypatch, tmp_path, "flags", **variables))
    export = loaded.configuration.export
    assert [own.endpoint for own in (export.logs, export.metrics, export.traces)] == [None] * 3
    assert {loaded.places.origins[f"export.{signal}.endpoint"] for signal in signals} == {"--endpoint"}
    assert loaded.places.origins["log.format"] == "--format"
    assert "export.protocol" not in loaded.places.origins
    without = load(Configuration, given(monkeypatch, tmp_path, "environment", **variables)).configuration.export
    assert without.logs.endpoint == "http://other"


def test_a_form_of_the_log_that_there_is_not_is_passed_over() -> None:
    assert _log_form([Layer({"log.format": "json"}, {}), Layer({"log.format": "xml"}, {})]) == "json"
    assert _log_form([Layer({}, {})]) == "text"
