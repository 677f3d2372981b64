"""What a write-ahead log that SQLite left tells of itself."""

from pathlib import Path
from struct import pack_into

import pytest

from otel_connect.export.salvage import read_wal
from tests.support.spool import SpoolBench, request

_HEADER, _FRAME = 32, 24 + 4096


@pytest.mark.parametrize(("commit", "broken"), [(0, False), (1, True)], ids=["unfinished", "finished"])
def test_only_a_transaction_that_ended_is_lost_behind_a_break(commit: int, broken: bool, tmp_path: Path) -> None:
    # Two processes, killed one after the other in the middle of a change, leave the first and the second frame.
    bench = SpoolBench(tmp_path / "spool")
    bench.put(request(b"a"))
    wal = (tmp_path / "spool" / "spool.db-wal").read_bytes()
    bench.close()
    last = wal[_HEADER : _HEADER + _FRAME]
    torn, behind = bytearray(last), bytearray(last)
    pack_into(">I", torn, 4, 0)
    pack_into(">I", behind, 4, commit)
    assert not read_wal(wal).broken
    assert read_wal(wal + torn + behind).broken is broken
