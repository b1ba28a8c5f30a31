"""The spool: rows, ring positions and counts move together; the ledger adds up; no bytes keep it from opening."""

from __future__ import annotations

import functools
import random
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tailrace_agent.ledger import Ledger
from tailrace_agent.spool.blocks import SYSTEM, Outcome
from tailrace_agent.spool.salvage import Salvage, salvage
from tailrace_agent.spool.store import Spool

NewBlock = tuple[int, str, int, int, bytes]

KINDS = ("metric", "param", "tag", "artifact")


@pytest.fixture(autouse=True, scope="module")
def _impatient() -> Iterator[None]:
    """A spool waits five seconds for another owner; here, nobody has that long."""
    real = sqlite3.connect
    patch = pytest.MonkeyPatch()
    patch.setattr(
        "tailrace_agent.spool.schema.sqlite3.connect",
        functools.wraps(real)(lambda *args, **kwargs: real(*args, **{**kwargs, "timeout": 0.02})),
    )
    yield
    patch.undo()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.db")
    yield spool
    spool.close()


def block(n: int = 3, *, run: int = 1, kind: str = "metric", size: int = 100, at: int = 5) -> NewBlock:
    return run, kind, n, at, bytes(size)


def put(spool: Spool, *blocks: NewBlock, **more: Any) -> None:
    kinds = [(run, "metric" if kind == SYSTEM else kind, n) for run, kind, n, _, _ in blocks]
    spool.ingest(blocks, [(run, kind, "accepted", n) for run, kind, n in kinds], **more)


def ids(spool: Spool, run: int = 1, kind: str = "metric") -> list[int]:
    return [found.id for found in spool.waiting.oldest(run, kind, 10**9)]


class Failing:
    """A connection of which one call fails."""

    def __init__(self, db: sqlite3.Connection, fails: Callable[[str], bool]) -> None:
        self._db, self._fails = db, fails

    def _check(self, sql: str) -> None:
        if self._fails(sql):
            raise sqlite3.OperationalError("disk I/O error")

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self._check(sql)
        return self._db.execute(sql, *args)

    def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self._check(sql)
        return self._db.executemany(sql, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


def failing(spool: Spool, fails: Callable[[str], bool]) -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr(spool.database, "connection", Failing(spool.database.connection, fails))
    return patch


def failing_at(spool: Spool, call: int) -> Any:
    calls = iter(range(10_000))
    return failing(spool, lambda _: next(calls) == call)


def table(spool: Spool) -> dict[tuple[int, str], int]:
    rows = spool.database.rows("SELECT run, kind, sum(n) FROM block GROUP BY run, kind")
    return {(row[0], row[1]): row[2] for row in rows}


def snapshot(spool: Spool) -> object:
    tables, waiting = ("block", "run", "tally", "delivered_key", "dead", "ring"), spool.waiting
    rows = [spool.database.rows(f"SELECT * FROM {name}") for name in tables]
    return rows, waiting.bytes, waiting.points, waiting.backlog(1)


# -- together or not at all --------------------------------------------------------------------------------------------


def test_what_was_taken_over_is_there_for_the_successor(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db")
    put(spool, block(3), block(2, kind="param"), runs=[(1, b"state")], rings=[("r", 10, 20)])
    spool.close()
    spool = Spool(tmp_path / "s.db")
    assert spool.set_aside is None
    assert (spool.waiting.points, spool.waiting.bytes, spool.waiting.backlog(1)) == (5, 200, {"param": 2, "metric": 3})
    assert spool.runs() == {1: b"state"}
    assert spool.ring_positions() == {"r": (10, 20)}
    assert (tmp_path / "s.db").stat().st_mode & 0o777 == 0o600
    spool.close()


@pytest.mark.parametrize("call", range(6))
@pytest.mark.parametrize("sync", [False, True])
def test_an_error_in_the_middle_of_ingest_leaves_everything_as_it_was(spool: Spool, call: int, *, sync: bool) -> None:
    put(spool, block(3), runs=[(1, b"old")], rings=[("r", 10, 20)])
    before = snapshot(spool)
    patch = failing_at(spool, call)
    with pytest.raises(sqlite3.OperationalError, match="disk I/O"):
        put(spool, block(7), runs=[(1, b"new")], rings=[("r", 30, 40)], sync=sync)
    patch.undo()
    assert snapshot(spool) == before
    put(spool, block(7), runs=[(1, b"new")], rings=[("r", 30, 40)])
    assert spool.waiting.points == 10
    assert spool.ring_positions() == {"r": (30, 40)}


@pytest.mark.parametrize(
    "statement", ["BEGIN", "DELETE FROM block", "INTO tally", "delivered_key", "INTO dead", "COMMIT"]
)
def test_an_error_in_the_middle_of_settle_leaves_everything_as_it_was(spool: Spool, statement: str) -> None:
    put(spool, block(3), block(4))
    before = snapshot(spool)
    outcome = Outcome(1, "metric", ids(spool), 6, requests=1, keys=[("a", 6)], dead=[("b", 1, b"x", "bad")])
    patch = failing(spool, lambda sql: statement in sql)
    with pytest.raises(sqlite3.OperationalError, match="disk I/O"):
        spool.settle(outcome)
    patch.undo()
    assert snapshot(spool) == before
    spool.settle(outcome)
    counts = spool.counts.ledger(1).of("metric")
    assert (counts.accepted, counts.delivered, counts.dead, counts.pending) == (7, 6, 1, 0)
    assert (spool.waiting.points, spool.waiting.bytes) == (0, 0)


@pytest.mark.parametrize("statement", ["BEGIN", "INTO dead", "INTO tally", "DELETE FROM block", "COMMIT"])
def test_an_error_in_the_middle_of_a_burial_leaves_everything_as_it_was(spool: Spool, statement: str) -> None:
    put(spool, block(3), block(4, kind="tag"))
    before = snapshot(spool)
    patch = failing(spool, lambda sql: statement in sql)
    with pytest.raises(sqlite3.OperationalError):
        spool.letters.bury(1, "gone")
    patch.undo()
    assert snapshot(spool) == before


def test_a_key_too_large_for_sqlite_changes_nothing(spool: Spool) -> None:
    put(spool, block(3))
    before = snapshot(spool)
    with pytest.raises(OverflowError):
        put(spool, block(1), block(1, run=2**63))
    assert snapshot(spool) == before


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


# -- one owner ---------------------------------------------------------------------------------------------------------


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


def test_threads_share_a_spool(spool: Spool) -> None:
    errors: list[BaseException] = []

    def work(run: int) -> None:
        try:
            for _ in range(60):
                put(spool, block(2, run=run))
                found = ids(spool, run)
                spool.settle(Outcome(run, "metric", found, 2 * len(found), requests=1))
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(run,)) for run in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (spool.waiting.points, spool.waiting.bytes) == (0, 0)
    assert all(spool.counts.ledger(run).delivered == 120 for run in range(4))


# -- whatever the bytes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a spool with something in every table."""
    path = tmp_path_factory.mktemp("whole") / "s.db"
    spool = Spool(path)
    rng = random.Random(1)
    blocks = [(run, kind, 3, 5, rng.randbytes(700)) for run in (1, 2) for kind in KINDS for _ in range(8)]
    put(spool, *blocks, runs=[(1, b"{}"), (2, b"{}")], rings=[("r", 10, 20)])
    spool.settle(Outcome(1, "metric", ids(spool)[:2], 5, keys=[("a", 5)], dead=[("b", 1, b"x", "bad")]))
    spool.close()
    return path.read_bytes()


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
        if spool.set_aside is not None:
            moved = Path(spool.set_aside.path)
            assert without_journal(moved.read_bytes()) == without_journal(before)
            assert moved.name.startswith("s.db.damaged-")
            assert spool.waiting.points == spool.set_aside.entries <= 8 * 8 * 3
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
    assert (spool.set_aside is None) == (size < 2)  # SQLite takes a byte for a new file


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


def _large(path: Path) -> Spool:
    """A spool of many pages: 600 blocks of two runs, of which some are delivered, dead letters, and a state each."""
    spool = Spool(path)
    put(
        spool,
        *(block(3, run=1 + at % 2, size=900) for at in range(600)),
        runs=[(1, b"{}"), (2, b"{}")],
        rings=[("r", 10, 20)],
    )
    spool.settle(Outcome(1, "metric", ids(spool)[:2], 5, keys=[("a", 5)], dead=[("b", 1, b"x", "bad")]))
    return spool


def _balanced(spool: Spool) -> None:
    """Every ledger says what is there."""
    for run in (1, 2):
        ledger = spool.counts.ledger(run)
        assert ledger.pending == sum(spool.waiting.backlog(run).values())
        assert ledger.dead == sum(letter.n for letter in spool.letters.all(run))
        assert ledger.balanced


def test_of_a_damaged_spool_all_is_taken_back_but_what_lay_on_the_damaged_page(tmp_path: Path) -> None:
    _large(tmp_path / "first.db").close()
    spool = Spool(tmp_path / "first.db")
    put(spool, *(block(3) for _ in range(2)))
    for suffix in ("", "-wal"):  # as a killed owner leaves them: the last commit is in the log alone
        shutil.copyfile(tmp_path / f"first.db{suffix}", tmp_path / f"s.db{suffix}")
    spool.close()
    body = bytearray((tmp_path / "s.db").read_bytes())
    page = len(body) // 2 // 4096 * 4096
    body[page : page + 4096] = random.Random(1).randbytes(4096)
    (tmp_path / "s.db").write_bytes(body)
    successor = Spool(tmp_path / "s.db")
    told = successor.set_aside
    assert told is not None
    assert told.lost is not None
    assert (told.entries + told.lost, successor.waiting.points) == (1800, told.entries)
    assert 0 < told.lost < 30
    assert set(successor.runs()) == {1, 2}
    assert successor.ring_positions() == {"r": (10, 20)}
    assert successor.counts.delivered_keys(1) == {"a": 5}
    _balanced(successor)
    successor.close()
    again = Spool(tmp_path / "s.db")
    assert (again.set_aside, again.waiting.points) == (None, told.entries)
    again.close()


@settings(max_examples=40, deadline=None)
@given(pages=st.lists(st.integers(0, 200), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_whatever_is_taken_back_the_ledger_adds_up(large: bytes, pages: list[int], seed: int) -> None:
    damaged = bytearray(large)
    for page in pages:
        at = page % (len(large) // 4096) * 4096
        damaged[at : at + 4096] = random.Random(seed).randbytes(4096) if seed % 2 else bytes(4096)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        (Path(folder) / "s.db").write_bytes(damaged)
        spool = Spool(Path(folder) / "s.db")
        assert spool.waiting.points <= 1794
        _balanced(spool)
        spool.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("large") / "s.db"
    _large(path).close()
    return path.read_bytes()


def test_a_kill_while_a_spool_is_taken_back_neither_loses_nor_doubles(tmp_path: Path, large: bytes) -> None:
    damaged = tmp_path / "old.db"
    damaged.write_bytes(large)
    spool = Spool(tmp_path / "new.db")
    broken: Any = Failing(spool.database.connection, lambda sql: sql.startswith("INSERT INTO salvage"))
    with pytest.raises(sqlite3.OperationalError):
        salvage(damaged, broken, 1.0)
    spool.close()
    spool = Spool(tmp_path / "new.db")
    assert spool.waiting.points == 0
    for _ in range(2):
        assert salvage(damaged, spool.database.connection, 1.0) == Salvage(1794, 0)
    spool.close()
    spool = Spool(tmp_path / "new.db")
    assert spool.waiting.points == 1794
    _balanced(spool)
    spool.close()


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


def test_a_file_of_somebody_else_is_set_aside_with_its_log(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("CREATE TABLE block(something TEXT)")
    other.execute("INSERT INTO block VALUES('else')")
    for name in ("s.db", "s.db-wal"):
        shutil.copyfile(tmp_path / name, tmp_path / name.replace("s.db", "t.db"))
    other.close()
    spool = Spool(tmp_path / "t.db")
    assert spool.set_aside is not None
    put(spool, block())
    spool.close()
    other = sqlite3.connect(spool.set_aside.path)
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
    assert Spool(tmp_path / "s.db").set_aside is not None


# -- reading -----------------------------------------------------------------------------------------------------------


def test_the_oldest_blocks_up_to_a_limit_are_found_and_always_one(spool: Spool) -> None:
    put(spool, *(block(n) for n in (250, 250, 250, 250, 10)), block(300, run=2), block(5, kind="param"))
    assert [found.n for found in spool.waiting.oldest(1, "metric", 1000)] == [250] * 4
    assert [found.n for found in spool.waiting.oldest(1, "metric", 999)] == [250] * 3
    assert [found.n for found in spool.waiting.oldest(1, "metric", 1)] == [250]
    assert [found.n for found in spool.waiting.oldest(2, "metric", 1)] == [300]
    assert spool.waiting.oldest(3, "metric", 1) == []


def test_ids_are_never_given_twice(spool: Spool) -> None:
    assert (spool.waiting.last_id(), spool.waiting.first(1)) == (0, None)
    put(spool, block(), block())
    last = spool.waiting.last_id()
    spool.settle(Outcome(1, "metric", ids(spool), 6))
    assert spool.waiting.last_id() == last
    put(spool, block())
    assert spool.waiting.first(1) == last + 1


def test_the_oldest_call_that_waits_is_told(spool: Spool) -> None:
    assert spool.waiting.oldest_ns(1) is None
    put(spool, block(kind="param", at=1), block(at=70), block(at=80), block(run=2, at=5))
    assert spool.waiting.oldest_ns(1) == 70


def test_delivered_keys_are_counted_by_run(spool: Spool) -> None:
    for _ in range(2):
        put(spool, block(3), block(3, run=2))
        spool.settle(Outcome(1, "metric", ids(spool), 3, keys=[("a", 2), ("b", 1)]))
    assert spool.counts.delivered_keys(1) == {"a": 4, "b": 2}
    assert spool.counts.delivered_keys(2) == {}


def test_a_ring_can_be_forgotten(spool: Spool) -> None:
    spool.ingest([], [], rings=[("a", 1, 2), ("b", 3, 4)])
    spool.forget_ring("a")
    spool.forget_ring("never there")
    assert spool.ring_positions() == {"b": (3, 4)}


# -- dead letters ------------------------------------------------------------------------------------------------------


def test_the_dead_of_a_run_that_is_gone_can_come_back(spool: Spool) -> None:
    put(spool, block(3, size=11), block(4, kind="tag", size=12), block(5, run=2))
    assert spool.letters.bury(1, "deleted") == 7
    assert spool.letters.bury(1, "deleted") == 0
    assert (spool.waiting.points, spool.waiting.bytes, spool.waiting.backlog(1)) == (5, 100, {})
    letters = spool.letters.all(1)
    assert [(letter.kind, letter.key, letter.n, letter.reason) for letter in letters] == [
        ("metric", "*", 3, "deleted"),
        ("tag", "*", 4, "deleted"),
    ]
    assert spool.counts.ledger(1).dead == 7
    assert spool.letters.all(2) == []
    spool.letters.revive(letters, [(letter.run, letter.kind, letter.n, 0, letter.body) for letter in letters])
    assert (spool.waiting.points, spool.waiting.bytes) == (12, 123)
    assert spool.letters.all() == []
    ledger = spool.counts.ledger(1)
    assert (ledger.accepted, ledger.dead, ledger.pending) == (7, 0, 7)


def test_dead_letters_can_be_discarded_and_are_still_counted(spool: Spool) -> None:
    put(spool, block(3), block(4))
    spool.letters.bury(1, "deleted")
    spool.letters.discard(spool.letters.all()[:1])
    counts = spool.counts.ledger(1).of("metric")
    assert (counts.dead, counts.dropped, counts.pending) == (4, {"discarded by the user": 3}, 0)
    assert len(spool.letters.all()) == 1


def test_a_burial_takes_no_account_of_rows_that_another_thread_is_bringing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(spool, block(3))
    grow = spool.waiting.grow

    def slow(blocks: Any) -> None:
        spool.letters.bury(1, "gone")  # the rows are committed, and not yet counted in memory
        grow(blocks)

    monkeypatch.setattr(spool.waiting, "grow", slow)
    put(spool, block(4))
    assert table(spool) == {}
    assert (spool.waiting.points, spool.waiting.bytes) == (0, 0)
    assert spool.counts.ledger(1).dead == 7


# -- the bound ---------------------------------------------------------------------------------------------------------


def test_the_oldest_metrics_go_first_and_nothing_else_goes(spool: Spool) -> None:
    put(spool, block(kind="param"), block(kind="tag"), block(kind="artifact"))
    put(spool, *(block(n, run=run) for n in range(1, 11) for run in (1, 2)))
    assert spool.waiting.bytes == 2300
    assert spool.waiting.shed(2300, "bound") == {}
    assert spool.waiting.shed(1799, "bound") == {1: 6, 2: 6}
    assert spool.waiting.bytes == 1700
    assert [found.n for found in spool.waiting.oldest(1, "metric", 10**9)] == list(range(4, 11))
    assert spool.counts.ledger(1).dropped == {"bound": 6}
    assert spool.waiting.shed(0, "bound") == {1: 49, 2: 49}
    assert spool.waiting.backlog(1) == {"param": 3, "tag": 3, "artifact": 3}
    assert spool.waiting.bytes == 300
    assert spool.waiting.shed(0, "bound") == {}


def test_system_metrics_go_before_step_metrics(spool: Spool) -> None:
    put(spool, block(1), block(2, kind=SYSTEM), block(3), block(4, kind=SYSTEM), block(5, run=2, kind=SYSTEM))
    assert spool.waiting.backlog(1) == {"metric": 10}
    assert spool.waiting.shed(300, "bound") == {1: 6}
    assert spool.waiting.shed(200, "bound") == {2: 5}
    assert [found.n for found in spool.waiting.oldest(1, "metric", 100)] == [1, 3]
    assert spool.waiting.shed(100, "bound") == {1: 1}


def test_what_is_being_sent_stays(spool: Spool) -> None:
    put(spool, *(block(n) for n in range(1, 11)))
    with spool.waiting.holding(1, "metric", 3) as held:
        assert [found.n for found in held] == [1, 2]
        assert spool.waiting.shed(0, "bound") == {1: 52}
        assert ids(spool) == [found.id for found in held]
    assert spool.waiting.shed(0, "bound") == {1: 3}


def test_any_number_of_held_blocks_does_not_keep_the_others(spool: Spool) -> None:
    put(spool, *(block(1) for _ in range(700)))
    with spool.waiting.holding(1, "metric", 500):
        assert spool.waiting.shed(60_000, "bound") == {1: 100}
        assert spool.waiting.shed(0, "bound") == {1: 100}
        assert spool.waiting.points == 500


def test_blocks_are_released_even_when_sending_fails(spool: Spool) -> None:
    put(spool, block(1))
    with pytest.raises(ValueError, match="sending"), spool.waiting.holding(1, "metric", 10):
        raise ValueError("sending")
    assert spool.waiting.shed(0, "bound") == {1: 1}


def test_what_was_delivered_while_the_bound_was_being_kept_is_not_counted_as_dropped(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(spool, block(3), block(4))
    real = spool.waiting._drop

    def late(rows: Any, reason: str, dropped: dict[int, int]) -> None:
        with spool.waiting.holding(1, "metric", 3) as held:
            spool.settle(Outcome(1, "metric", [found.id for found in held], 3, requests=1))
        real(rows, reason, dropped)

    monkeypatch.setattr(spool.waiting, "_drop", late)
    assert spool.waiting.shed(0, "bound") == {1: 4}
    counts = spool.counts.ledger(1).of("metric")
    assert (counts.delivered, counts.dropped, counts.pending) == (3, {"bound": 4}, 0)
    assert (spool.waiting.points, spool.waiting.bytes) == (0, 0)


# -- it adds up --------------------------------------------------------------------------------------------------------

RUNS = st.integers(1, 3)
BLOCKS = st.lists(
    st.tuples(RUNS, st.sampled_from(KINDS), st.integers(1, 9), st.integers(0, 99), st.binary(max_size=40)), max_size=6
)


class SpoolMachine(RuleBasedStateMachine):
    """Anything in any order, with failures, kills and restarts in between."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.path = Path(self.folder.name) / "s.db"
        self.spool = Spool(self.path)
        self.accepted: dict[tuple[int, str], int] = {}

    @rule(blocks=BLOCKS, drops=st.integers(0, 3), run=RUNS, sync=st.booleans())
    def ingest(self, blocks: list[NewBlock], drops: int, run: int, sync: bool) -> None:
        tallies = [(r, kind, "accepted", n) for r, kind, n, _, _ in blocks]
        if drops:
            tallies += [(run, "metric", "accepted", drops), (run, "metric", "dropped:bad", drops)]
        self.spool.ingest(blocks, tallies, rings=[("r", sum(self.accepted.values()), 0)], sync=sync)
        for r, kind, _, n in tallies:
            if _ == "accepted":
                self.accepted[r, kind] = self.accepted.get((r, kind), 0) + n

    @rule(blocks=BLOCKS, call=st.integers(0, 4))
    def ingest_fails(self, blocks: list[NewBlock], call: int) -> None:
        patch = failing_at(self.spool, call)
        with pytest.raises(sqlite3.OperationalError):
            put(self.spool, *blocks)
        patch.undo()

    @rule(run=RUNS, kind=st.sampled_from(KINDS), limit=st.integers(1, 30), data=st.data())
    def settle(self, run: int, kind: str, limit: int, data: st.DataObject) -> None:
        with self.spool.waiting.holding(run, kind, limit) as blocks:
            if not blocks:
                return
            total = sum(found.n for found in blocks)
            dead = data.draw(st.integers(0, total))
            dropped = data.draw(st.integers(0, total - dead))
            delivered = total - dead - dropped
            outcome = Outcome(
                run,
                kind,
                [found.id for found in blocks],
                delivered,
                merged=delivered // 2,
                requests=1,
                keys=[("k", delivered)],
                dead=[("d", 1, b"body", "refused")] * dead,
                dropped=[("gone", dropped)],
            )
            if data.draw(st.booleans()):
                patch = failing(self.spool, lambda sql: sql == "COMMIT")
                with pytest.raises(sqlite3.OperationalError):
                    self.spool.settle(outcome)
                patch.undo()
            self.spool.waiting.shed(0, "bound") if data.draw(st.booleans()) else None
            self.spool.settle(outcome)

    @rule(limit=st.integers(0, 400))
    def shed(self, limit: int) -> None:
        before = sum(self.spool.counts.ledger(run).of("metric").pending for run in (1, 2, 3))
        dropped = self.spool.waiting.shed(limit, "bound")
        after = sum(self.spool.counts.ledger(run).of("metric").pending for run in (1, 2, 3))
        assert before - after == sum(dropped.values())
        assert self.spool.waiting.bytes <= limit or not any(kind == "metric" for _, kind in table(self.spool))

    @rule(run=RUNS)
    def bury(self, run: int) -> None:
        waiting = sum(self.spool.waiting.backlog(run).values())
        assert self.spool.letters.bury(run, "gone") == waiting

    @rule(count=st.integers(0, 5), revive=st.booleans())
    def care_for_the_dead(self, count: int, revive: bool) -> None:
        letters = self.spool.letters.all()[:count]
        if revive:
            self.spool.letters.revive(letters, [(one.run, one.kind, one.n, 0, one.body) for one in letters])
        else:
            self.spool.letters.discard(letters)

    @rule()
    def restart(self) -> None:
        self.spool.close()
        self.spool = Spool(self.path)

    @invariant()
    def the_ledger_adds_up(self) -> None:
        if not hasattr(self, "spool"):
            return
        waiting = table(self.spool)
        dead: dict[tuple[int, str], int] = {}
        for letter in self.spool.letters.all():
            dead[letter.run, letter.kind] = dead.get((letter.run, letter.kind), 0) + letter.n
        for run in (1, 2, 3):
            ledger = self.spool.counts.ledger(run)
            assert ledger.balanced
            for kind in KINDS:
                counts = ledger.of(kind)
                assert counts.accepted == self.accepted.get((run, kind), 0)
                assert counts.pending == waiting.get((run, kind), 0)
                assert counts.dead == dead.get((run, kind), 0)
            assert self.spool.waiting.backlog(run) == {kind: n for (r, kind), n in sorted_kinds(waiting) if r == run}
        assert self.spool.waiting.points == sum(waiting.values())
        assert self.spool.waiting.bytes == self.spool.database.rows("SELECT total(length(body)) FROM block")[0][0]
        total = functools.reduce(Ledger.add, (self.spool.counts.ledger(run) for run in (1, 2, 3)))
        assert total.pending == self.spool.waiting.points

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.spool.close()
            self.folder.cleanup()


def sorted_kinds(waiting: dict[tuple[int, str], int]) -> list[tuple[tuple[int, str], int]]:
    return sorted(waiting.items())


TestWhateverHappensItAddsUp = SpoolMachine.TestCase
TestWhateverHappensItAddsUp.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
