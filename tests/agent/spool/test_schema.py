"""Whatever the bytes of a file are: it opens, or is set aside."""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.spools import block, ids, put
from tailrace_agent.spool.blocks import Outcome
from tailrace_agent.spool.store import Spool


def without_journal(file: bytes) -> bytes:
    """Without what switching the journal's mode writes into the header, before any damage can be noticed.

    The versions at 18, the change counter at 24, and for which change SQLite's own version at 92 is valid:
    https://sqlite.org/fileformat.html#the_database_header
    """
    return file[:18] + file[20:24] + file[28:92] + file[100:]


def assert_opens(folder: Path) -> Spool:
    """It opens, works, and what was set aside is still there."""
    path = folder / "s.db"
    before = path.read_bytes()
    spool = Spool(path)
    try:
        for found in spool.set_aside:
            moved = Path(found.path)
            assert without_journal(moved.read_bytes()) == without_journal(before)
            assert moved.name.startswith("s.db.damaged-")
            assert spool.waiting.points == found.entries <= 8 * 8 * 3
        known = spool.waiting.points
        put(spool, block(3, run=77), runs=[(77, b"{}")], rings=[("q", 1, 2)])
        assert spool.waiting.points == known + 3
        spool.settle(Outcome(77, "metric", ids(spool, 77), 3, requests=1, keys=[("a", 3)]))
        spool.waiting.shed(0, "test")
        for run in (1, 2):
            spool.letters.bury(run, "test")
        assert spool.waiting.points == 0
        assert spool.counts.ledger(77).delivered == 3
    finally:
        spool.close()
    return spool


@pytest.mark.parametrize(
    "size", [0, 1, 15, 16, 50, 99, 100, 101, 511, 4095, 4096, 4097, 8192, 12288, 20480, 20481, 40960], ids=str
)
def test_a_truncated_file_is_set_aside(tmp_path: Path, whole: bytes, size: int) -> None:
    assert size < len(whole)
    (tmp_path / "s.db").write_bytes(whole[:size])
    spool = assert_opens(tmp_path)
    assert len(spool.set_aside) == (size >= 2)  # SQLite takes a byte for a new file


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_file_with_flipped_bytes_opens_or_is_set_aside(whole: bytes, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    anywhere = st.integers(0, len(whole) - 1)
    headers = st.sampled_from([*range(100), *(page + i for page in range(0, len(whole), 4096) for i in range(12))])
    for at in data.draw(st.lists(st.one_of(anywhere, headers), min_size=1, max_size=4, unique=True)):
        damaged[at] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        (Path(folder) / "s.db").write_bytes(damaged)
        assert_opens(Path(folder))


@settings(max_examples=50, deadline=None)
@given(page=st.integers(0, 200), seed=st.integers(0, 1000))
def test_a_file_with_a_lost_page_opens_or_is_set_aside(whole: bytes, page: int, seed: int) -> None:
    damaged = bytearray(whole)
    at = page % (len(whole) // 4096) * 4096
    damaged[at : at + 4096] = random.Random(seed).randbytes(4096) if seed % 2 else bytes(4096)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        (Path(folder) / "s.db").write_bytes(damaged)
        assert_opens(Path(folder))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=5000))
def test_a_file_of_random_bytes_opens_or_is_set_aside(garbage: bytes) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        (Path(folder) / "s.db").write_bytes(garbage)
        assert_opens(Path(folder))


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("size", [0, 31, 32, 5000])
@pytest.mark.parametrize("alone", [False, True])
def test_garbage_beside_the_file_does_not_keep_it_from_opening(
    tmp_path: Path, whole: bytes, suffix: str, size: int, *, alone: bool
) -> None:
    if not alone:
        (tmp_path / "s.db").write_bytes(whole)
    (tmp_path / f"s.db{suffix}").write_bytes(random.Random(size).randbytes(size))
    spool = Spool(tmp_path / "s.db")
    assert spool.waiting.points == (0 if alone else 8 * 8 * 3 - 6)
    put(spool, block(run=77))
    spool.close()


def test_a_file_of_somebody_else_is_set_aside_with_its_log(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("CREATE TABLE block(something TEXT)")
    other.execute("INSERT INTO block VALUES('else')")
    for name in ("s.db", "s.db-wal"):
        shutil.copyfile(tmp_path / name, tmp_path / name.replace("s.db", "t.db"))
    other.close()
    spool = Spool(tmp_path / "t.db")
    assert len(spool.set_aside) == 1
    put(spool, block())
    spool.close()
    other = sqlite3.connect(spool.set_aside[0].path)
    assert other.execute("SELECT * FROM block").fetchall() == [("else",)]
    other.close()


def test_a_file_that_may_not_be_written_is_not_set_aside(
    tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_only = bytearray(whole)
    read_only[18] = 99  # a version that may be read only: SQLite says the same of a file without permission
    (tmp_path / "s.db").write_bytes(read_only)
    with monkeypatch.context() as patch:
        patch.setattr("tailrace_agent.spool.schema.os.access", lambda *_: False)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            Spool(tmp_path / "s.db")
    assert len(Spool(tmp_path / "s.db").set_aside) == 1
