"""One owner, and what a sync takes along."""

from __future__ import annotations

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from helpers.spools import block, failing, put
from tailrace_agent.spool.database import move_away
from tailrace_agent.spool.store import Spool


def test_a_sync_takes_all_earlier_commits_along_and_then_commits_are_quick_again(spool: Spool) -> None:
    said: list[str] = []
    spool.database.connection.set_trace_callback(said.append)
    put(spool, block(), sync=True)
    put(spool, block())
    pragmas = [text for text in said if "synchronous" in text or text in ("BEGIN IMMEDIATE", "COMMIT")]
    full, normal = "PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL"
    assert pragmas == [full, "BEGIN IMMEDIATE", "COMMIT", normal, "BEGIN IMMEDIATE", "COMMIT"]
    spool.database.connection.set_trace_callback(None)
    patch = failing(spool, lambda sql: "INTO ring" in sql)
    with pytest.raises(sqlite3.OperationalError):
        put(spool, block(), sync=True)
    patch.undo()
    assert spool.database.connection.execute("PRAGMA synchronous").fetchone() == (1,)


def test_a_second_opener_is_turned_away_and_harms_nothing(tmp_path: Path, spool: Spool) -> None:
    put(spool, block(3))
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        Spool(tmp_path / "spool.db")
    assert [path.name for path in tmp_path.iterdir() if "damaged" in path.name] == []
    put(spool, block(4))
    assert spool.waiting.points == 7


def test_a_directory_that_is_not_there_is_an_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        Spool(tmp_path / "nowhere" / "s.db")


def test_the_commits_of_an_owner_that_was_killed_are_read_and_a_damaged_one_of_them_is_not(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db")
    for _ in range(20):
        put(spool, block(3, size=2000))
    for name in ("s.db", "s.db-wal"):  # as a killed owner leaves them
        shutil.copyfile(tmp_path / name, tmp_path / f"killed-{name}")
    spool.close()
    (tmp_path / "s.db").write_bytes((tmp_path / "killed-s.db").read_bytes())
    wal = (tmp_path / "killed-s.db-wal").read_bytes()
    for cut in (len(wal), len(wal) - 100, len(wal) // 2, 100):
        copy = tmp_path / f"copy-{cut}"
        copy.mkdir()
        (copy / "s.db").write_bytes((tmp_path / "s.db").read_bytes())
        (copy / "s.db-wal").write_bytes(wal[:cut])
        successor = Spool(copy / "s.db")
        assert successor.waiting.points % 3 == 0
        assert successor.waiting.points == successor.counts.ledger(1).accepted
        if cut == len(wal):
            assert successor.waiting.points == 60
        successor.close()


def test_a_sync_waits_for_the_disk_only_for_what_may_not_be_there_yet(spool: Spool) -> None:
    put(spool, block(), block(), sync=True)
    last, said = spool.waiting.last_id(), list[str]()
    spool.database.connection.set_trace_callback(said.append)
    spool.sync(last)
    assert said == []
    put(spool, block())
    said.clear()
    spool.sync(last + 1)
    assert "PRAGMA synchronous = FULL" in said
    assert any("INTO beat" in text for text in said), "what writes nothing would take nothing along"
    said.clear()
    spool.sync()
    assert said == [], "there is no commit that has not waited"
    spool.save_run(1, b"state")
    said.clear()
    spool.sync()
    assert "PRAGMA synchronous = FULL" in said
    spool.database.connection.set_trace_callback(None)


def test_what_an_earlier_owner_has_committed_is_waited_for(tmp_path: Path) -> None:
    Spool(tmp_path / "s.db").close()
    spool, said = Spool(tmp_path / "s.db"), list[str]()
    spool.database.connection.set_trace_callback(said.append)
    spool.sync()
    assert "PRAGMA synchronous = FULL" in said
    spool.database.connection.set_trace_callback(None)


def test_threads_that_wait_for_the_disk_at_the_same_time_wait_for_it_once(spool: Spool) -> None:
    said = list[str]()
    spool.save_run(1, b"state")
    spool.database.connection.set_trace_callback(said.append)
    with ThreadPoolExecutor(8) as pool:
        with spool.database.reading():  # they all come while somebody else is at it
            jobs = [pool.submit(spool.sync) for _ in range(8)]
            assert not wait(jobs, timeout=0.3).done
        assert not wait(jobs, timeout=20).not_done
    assert said.count("PRAGMA synchronous = FULL") == 1
    spool.database.connection.set_trace_callback(None)


def test_a_file_is_moved_away_with_its_log(tmp_path: Path) -> None:
    for name in ("s.db", "s.db-wal", "other.db"):
        (tmp_path / name).write_text(name)
    moved = move_away(tmp_path / "s.db")
    assert moved.read_text() == "s.db"
    assert moved.with_name(f"{moved.name}-wal").read_text() == "s.db-wal"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_disk_that_is_full_gets_the_logs_room_back(spool: Spool) -> None:
    put(spool, *(block(size=5000) for _ in range(40)))
    log = spool.path.with_name("spool.db-wal")
    assert log.stat().st_size > 100_000
    with pytest.raises(sqlite3.OperationalError, match="full"), spool.database.transaction():
        raise sqlite3.OperationalError("database or disk is full")
    assert log.stat().st_size == 0
    assert spool.waiting.points == 120
