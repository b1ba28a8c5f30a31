"""Dead letters: buried, put back on the way, discarded."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from helpers.spools import block, failing, put, snapshot, table
from tailrace_agent.spool.store import Spool


@pytest.mark.parametrize("statement", ["BEGIN", "INTO dead", "INTO tally", "DELETE FROM block", "COMMIT"])
def test_an_error_in_the_middle_of_a_burial_leaves_everything_as_it_was(spool: Spool, statement: str) -> None:
    put(spool, block(3), block(4, kind="tag"))
    before = snapshot(spool)
    patch = failing(spool, lambda sql: statement in sql)
    with pytest.raises(sqlite3.OperationalError):
        spool.letters.bury(1, "gone")
    patch.undo()
    assert snapshot(spool) == before


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
