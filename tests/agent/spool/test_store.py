"""The spool: rows, ring positions and counts move together, and the ledger adds up."""

from __future__ import annotations

import functools
import sqlite3
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from helpers.spools import KINDS, block, failing, failing_at, ids, put, snapshot, table
from tailrace_agent.ledger import Ledger
from tailrace_agent.spool.blocks import NewBlock, Outcome
from tailrace_agent.spool.extremes import Extreme
from tailrace_agent.spool.store import Spool

# -- together or not at all --------------------------------------------------------------------------------------------


def test_what_was_taken_over_is_there_for_the_successor(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db")
    put(spool, block(3), block(2, kind="param"), runs=[(1, b"state")], rings=[("r", 10, 20)])
    spool.close()
    spool = Spool(tmp_path / "s.db")
    assert spool.set_aside == []
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


def test_what_settle_is_going_to_leave_is_known_before_and_nothing_has_changed(spool: Spool) -> None:
    put(spool, block(3), block(2, kind="param"))
    (first,), (second,) = ids(spool), ids(spool, kind="param")
    before = snapshot(spool)
    widest = {"a": Extreme(3, -1.0, 2.0, 7, 9)}
    outcomes = [
        Outcome(1, "metric", [first], 3, requests=1, keys=[("a", 3)], extremes=widest),
        Outcome(1, "param", [second], 1, dead=[("b", 1, b"x", "bad")]),
    ]
    foreseen = spool.foresee(1, outcomes)
    assert snapshot(spool) == before
    spool.settle(*outcomes)
    assert foreseen == (spool.counts.ledger(1), spool.counts.extremes(1)) == (foreseen[0], widest)
    assert (spool.waiting.points, spool.letters.number) == (0, 1)


def test_a_key_too_large_for_sqlite_changes_nothing(spool: Spool) -> None:
    put(spool, block(3))
    before = snapshot(spool)
    with pytest.raises(OverflowError):
        put(spool, block(1), block(1, run=2**63))
    assert snapshot(spool) == before


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


def test_a_ring_can_be_forgotten(spool: Spool) -> None:
    spool.ingest([], [], rings=[("a", 1, 2), ("b", 3, 4)])
    spool.forget_ring("a")
    spool.forget_ring("never there")
    assert spool.ring_positions() == {"b": (3, 4)}


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
