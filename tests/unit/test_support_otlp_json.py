"""Reading what a collector wrote that was killed: in the middle of a document, or between it and its line end."""

import json
from pathlib import Path

import pytest

from tests.support.otlp_json import JsonLines

ESCAPED = 'x{"resourceLogs":[]}'  # what a document looks like, in a string of one
DOCUMENTS = [
    {f"resource{signal}": [{"resource": {"attributes": [{"key": "a", "value": {"stringValue": ESCAPED}}]}}]}
    for signal in ("Logs", "Spans", "Metrics")
]
LOGS, SPANS, METRICS = (json.dumps(document, separators=(",", ":")) for document in DOCUMENTS)


@pytest.mark.parametrize("cut", range(len(LOGS)))
def test_a_piece_of_a_document_is_left_out_and_what_follows_is_not(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "lines"
    file.write_text(f"{SPANS}\n{LOGS[:cut]}{METRICS}\n")
    assert JsonLines(file).documents() == [DOCUMENTS[1], DOCUMENTS[2]]


def test_documents_without_a_line_end_between_them_are_all_read(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text(f"{LOGS}{SPANS}{METRICS}\n{LOGS}")
    lines = JsonLines(file)
    assert lines.documents() == DOCUMENTS
    file.write_text(f"{LOGS}{SPANS}{METRICS}\n{LOGS}\n")
    assert lines.documents() == [*DOCUMENTS, DOCUMENTS[0]]


def test_a_line_that_ends_in_a_piece_is_damage(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text(f"{LOGS[:-5]}\n")
    with pytest.raises(json.JSONDecodeError):
        JsonLines(file).documents()
