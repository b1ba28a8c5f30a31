"""What is taken back of a damaged spool, and what is known to be lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.spools import FailingConnection, block, ids, put
from tailrace_agent.ipc.finished import SetAside, still_aside
from tailrace_agent.spool.blocks import Outcome
from tailrace_agent.spool.extremes import Extreme
from tailrace_agent.spool.salvage import LOST, Salvage, salvage, take_back
from tailrace_agent.spool.store import Spool


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


def _damaged(folder: Path) -> None:
    """A large spool that a killed owner has left, its last commit in the log alone, with a damaged page: `s.db`."""
    _large(folder / "first.db").close()
    spool = Spool(folder / "first.db")
    put(spool, *(block(3) for _ in range(2)))
    for suffix in ("", "-wal"):
        shutil.copyfile(folder / f"first.db{suffix}", folder / f"s.db{suffix}")
    spool.close()
    body = bytearray((folder / "s.db").read_bytes())
    page = len(body) // 2 // 4096 * 4096
    body[page : page + 4096] = random.Random(1).randbytes(4096)
    (folder / "s.db").write_bytes(body)


def _opened_and_killed(path: Path, step: str, call: int = 1) -> None:
    """Another process opens the spool, and is killed at a call of that function."""
    child = os.fork()
    if child == 0:
        calls = 0
        module, _, name = step.rpartition(".")
        real: Callable[..., Any] = getattr(sys.modules[f"tailrace_agent.spool.{module}"], name)

        def kills(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        pytest.MonkeyPatch().setattr(f"tailrace_agent.spool.{step}", kills)
        Spool(path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _balanced(spool: Spool) -> None:
    """Every ledger says what is there."""
    for run in (1, 2):
        ledger = spool.counts.ledger(run)
        assert ledger.pending == sum(spool.waiting.backlog(run).values())
        assert ledger.dead == sum(letter.n for letter in spool.letters.all(run))
        assert ledger.balanced


def test_of_a_damaged_spool_all_is_taken_back_but_what_lay_on_the_damaged_page(tmp_path: Path) -> None:
    _damaged(tmp_path)
    successor = Spool(tmp_path / "s.db")
    (told,) = successor.set_aside
    assert told.lost is not None
    assert (told.entries + told.lost, successor.waiting.points) == (1800, told.entries)
    assert 0 < told.lost < 30
    assert set(successor.runs()) == {1, 2}
    assert successor.ring_positions() == {"r": (10, 20)}
    assert successor.counts.delivered_keys(1) == {"a": 5}
    _balanced(successor)
    successor.close()
    again = Spool(tmp_path / "s.db")
    assert (again.set_aside, again.waiting.points) == ([], told.entries)
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
    broken: Any = FailingConnection(spool.database.connection, lambda sql: sql.startswith("INSERT INTO salvage"))
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


@pytest.mark.parametrize(
    ("step", "call"),
    [
        ("database.move_rest", 1),  # the file has its new name, the log has not
        ("store.take_back", 1),
        ("salvage.note_set_aside", 1),
        ("salvage.count_keys", 1),  # in the middle of the transaction
        ("salvage.note_set_aside", 2),  # it is committed
    ],
)
def test_whenever_an_agent_is_killed_that_sets_a_spool_aside_the_next_one_takes_all_back_once(
    tmp_path: Path, step: str, call: int
) -> None:
    _damaged(tmp_path)
    _opened_and_killed(tmp_path / "s.db", step, call)
    spool = Spool(tmp_path / "s.db")
    (told,) = spool.set_aside
    assert told.lost is not None
    assert (told.entries + told.lost, spool.waiting.points, told.begun) == (1800, told.entries, 0)
    assert 0 < told.lost < 30
    _balanced(spool)
    spool.close()
    again = Spool(tmp_path / "s.db")
    assert (again.set_aside, again.waiting.points) == ([], told.entries)
    again.close()


def test_a_file_that_ends_whoever_reads_it_is_given_up_and_stays(tmp_path: Path, large: bytes) -> None:
    damaged = tmp_path / "s.db.damaged-1"
    damaged.write_bytes(large)
    for _ in range(3):
        _opened_and_killed(tmp_path / "s.db", "salvage.count_keys")
    assert "goes on its way when the session is opened next" in str(*still_aside(tmp_path / "s.db"))
    spool = Spool(tmp_path / "s.db")
    assert (spool.set_aside, spool.waiting.points) == ([SetAside(path=str(damaged))], 0)
    assert (still_aside(tmp_path / "s.db"), damaged.read_bytes()) == ([], large)
    spool.close()


def test_several_files_that_were_left_are_taken_back_the_oldest_first_beside_what_is_there(tmp_path: Path) -> None:
    for at, high in ((9, 5.0), (10, 1.0)):
        old = Spool(tmp_path / f"s.db.damaged-{at}")
        put(old, block(at))
        old.settle(Outcome(1, "metric", [], 1, keys=[("a", 1)], extremes={"a": Extreme(1, 0.5, high, at, at)}))
        old.close()
    (tmp_path / "s.db.damaged-9.json.77.new").touch()  # a note that a kill has cut short
    new = Spool(tmp_path / "first.db")
    put(new, block(2))
    new.close()
    (tmp_path / "first.db").replace(tmp_path / "s.db")  # as a version has left it that looks for no others
    spool = Spool(tmp_path / "s.db")
    assert [(Path(told.path).name, told.entries) for told in spool.set_aside] == [
        ("s.db.damaged-9", 9),
        ("s.db.damaged-10", 10),
    ]
    assert spool.database.rows("SELECT n FROM block ORDER BY id") == [(2,), (9,), (10,)]
    assert spool.counts.extremes(1) == {"a": Extreme(2, 0.5, 5.0, 10, 10)}
    spool.close()


def test_what_was_taken_back_into_a_spool_that_is_damaged_in_its_turn_is_not_taken_back_twice(
    tmp_path: Path, large: bytes
) -> None:
    (tmp_path / "s.db.damaged-1").write_bytes(large)
    spool = Spool(tmp_path / "s.db")
    assert spool.waiting.points == 1794
    spool.close()
    (tmp_path / "s.db").replace(tmp_path / "s.db.damaged-2")
    (tmp_path / "s.db.damaged-1.json").unlink()
    spool = Spool(tmp_path / "s.db")
    assert [told.entries for told in spool.set_aside] == [1794, 1794]
    assert spool.waiting.points == 1794
    _balanced(spool)
    spool.close()


def test_a_disk_that_refuses_leaves_the_file_for_the_next_opening(tmp_path: Path, large: bytes) -> None:
    (tmp_path / "s.db.damaged-1").write_bytes(large)
    new = Spool(tmp_path / "new.db")
    broken: Any = FailingConnection(new.database.connection, lambda sql: sql.startswith("INSERT INTO block"))
    left = still_aside(tmp_path / "s.db")
    for _ in range(4):  # none of them counts as one that has ended its reader
        left = take_back(left, broken, 1.0)
        assert [told.begun for told in left] == [1]
    new.close()
    spool = Spool(tmp_path / "s.db")
    assert spool.waiting.points == 1794
    spool.close()


def test_a_row_whose_body_has_another_checksum_is_not_taken(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "old.db")
    put(spool, block(3), block(4), block(5))
    spool.close()
    with closing(sqlite3.connect(tmp_path / "old.db", isolation_level=None)) as raw:  # without the triggers of a spool
        raw.execute("UPDATE block SET body = zeroblob(99) WHERE n = 4")
        raw.execute("UPDATE block SET n = 2000 WHERE n = 5")
    new = Spool(tmp_path / "new.db")
    assert salvage(tmp_path / "old.db", new.database.connection, 1.0) == Salvage(3, 9)
    assert new.database.rows("SELECT n FROM block") == [(3,)]
    assert new.counts.ledger(1).dropped == {LOST: 9}
    new.close()


def test_what_was_found_and_not_counted_is_accepted(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "old.db")
    spool.ingest([block(3)], [])
    spool.close()
    new = Spool(tmp_path / "new.db")
    assert salvage(tmp_path / "old.db", new.database.connection, 1.0) == Salvage(3, None), "nobody knows what is lost"
    assert (new.counts.ledger(1).accepted, new.counts.ledger(1).pending) == (3, 3)
    new.close()


def test_a_file_of_which_nothing_can_be_read_is_noted_beside_it(tmp_path: Path) -> None:
    (tmp_path / "s.db.damaged-1").write_bytes(b"no database" * 1000)
    new = Spool(tmp_path / "s.db")
    (told,) = new.set_aside
    assert (told.entries, told.lost, told.begun) == (0, None, 0)
    assert not new.database.connection.in_transaction
    new.close()
    again = Spool(tmp_path / "s.db")
    assert again.set_aside == [], "it is tried once"
    again.close()


def test_a_salvage_that_fails_leaves_the_new_spool_in_no_transaction(tmp_path: Path, large: bytes) -> None:
    (tmp_path / "old.db").write_bytes(large)
    spool = Spool(tmp_path / "new.db")
    broken: Any = FailingConnection(spool.database.connection, lambda sql: sql.startswith("INSERT INTO block"))
    with pytest.raises(sqlite3.OperationalError):
        salvage(tmp_path / "old.db", broken, 1.0)
    assert not spool.database.connection.in_transaction
    put(spool, block(3))
    assert spool.waiting.points == 3
    spool.close()
