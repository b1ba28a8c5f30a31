"""What a drain brings is written once, whatever fails and whoever is killed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.pipeline_rig import PipelineRig, put, start
from tailrace_agent.errors import Unavailable
from tailrace_agent.ipc import staging
from tailrace_agent.ipc.records import End, Params

# -- agents that die ---------------------------------------------------------------------------------------------------


def test_rows_of_an_agent_killed_between_commit_and_tail_count_once(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = rig.ring()
    put(ring, start(), *(rig.row("loss", step=step) for step in range(3000)))
    with monkeypatch.context() as patch:
        patch.setattr("tailrace_agent.ipc.ring_reader.RingReader.commit", lambda *_: None)
        rig.pipeline.drain(rig.now)
    assert ring.unread > 0
    accepted = rig.ledger().accepted
    assert accepted > 0
    rig.restart()
    rig.run()
    assert rig.ledger().accepted == rig.ledger().delivered == 3000
    assert rig.stored() == {"loss": 3000}


class Killed(BaseException):
    """SIGKILL: nothing is tidied up."""


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(plan=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=8))
def test_however_often_the_agent_is_killed_every_row_counts_once(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[int, int]]
) -> None:
    rig = PipelineRig(tmp_path_factory.mktemp("kills"))
    ring = rig.ring()
    put(ring, start())
    step = 0
    for rows, fuse in plan:
        for _ in range(rows):
            put(ring, rig.row("loss", step=step))
            step += 1
        calls = itertools.count()

        def tick(*_: object, calls: Iterator[int] = calls, fuse: int = fuse) -> None:
            if next(calls) >= fuse:
                raise Killed

        real = rig.pipeline.spool.database.connection
        patch = pytest.MonkeyPatch()
        patch.setattr(rig.pipeline.spool.database, "connection", Ticking(real, tick))
        rig.sink.fail = rig.sink.fail_after = tick
        with contextlib.suppress(Killed):
            rig.run(3)
        patch.undo()
        rig.sink.fail = rig.sink.fail_after = None
        if real.in_transaction:
            real.rollback()
        rig.restart()
    put(ring, End(1, "FINISHED", 9))
    rig.run()
    assert rig.ledger().accepted == rig.ledger().delivered == step
    assert rig.stored() == {"loss": step}
    assert rig.pipeline.settled
    assert rig.of().status == "FINISHED"
    rig.pipeline.close()
    rig.session.remove()


class Ticking:
    """A connection that may be killed before and after each statement."""

    def __init__(self, db: sqlite3.Connection, tick: Callable[[], None]) -> None:
        self._db, self._tick = db, tick

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql == "ROLLBACK":  # the dead do not tidy up
            return self._db.execute("SELECT 1")
        self._tick()
        cursor = self._db.execute(sql, *args)
        self._tick()
        return cursor

    def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self._tick()
        return self._db.executemany(sql, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


def test_rows_of_a_run_that_was_finalized_outlive_a_kill_of_the_agent_that_took_them_over(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), End(1, "FINISHED", 99))
    rig.run()
    assert rig.pipeline.settled
    put(ring, rig.row("late"))
    rig.pipeline.drain(rig.now)
    rig.restart()
    assert not rig.pipeline.settled
    rig.run()
    assert rig.stored() == {"late": 1}
    assert rig.pipeline.settled


def test_an_end_whose_commit_failed_is_known_to_the_successor(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a"))
    rig.run(2)

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    put(ring, rig.row("b"), End(1, "FINISHED", 9))
    with monkeypatch.context() as patch:
        patch.setattr(rig.pipeline.spool, "ingest", full)
        for _ in range(3):
            with pytest.raises(sqlite3.OperationalError):
                rig.pipeline.drain(rig.now)
    rig.pipeline.drain(rig.now)
    rig.session.remove_ring(ring.path.stem)
    rig.restart()
    rig.run()
    assert rig.of().status == "FINISHED"
    assert rig.stored() == {"a": 1, "b": 1}


# -- when the disk or the memory is full -------------------------------------------------------------------------------


def test_rows_whose_commit_failed_are_taken_over_later_and_count_once(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a", "b"), Params(1, {"lr": "1"}))

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(rig.pipeline.spool, "ingest", full)
        for _ in range(3):
            with pytest.raises(sqlite3.OperationalError):
                rig.pipeline.drain(rig.now)
    rig.run()
    assert (rig.ledger().accepted, rig.ledger().delivered) == (3, 3)


def test_a_text_that_cannot_be_staged_costs_time_and_no_count(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = rig.ring(), rig.ring()
    put(first, start(), rig.row("a", "b"), rig.row("c"))
    put(second, rig.row("d"), Params(1, {"config": "x" * 20_000}), rig.row("e"))
    real = staging.make
    failures = itertools.count()

    def full(folder: Path, name: str) -> Path:
        if next(failures) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(folder, name)

    monkeypatch.setattr(staging, "make", full)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            rig.pipeline.drain(rig.now)
    rig.run()
    assert rig.ledger().of("metric").accepted == rig.ledger().of("metric").delivered == 5
    assert rig.stored() == dict.fromkeys("abcde", 1)
    assert (rig.ledger().of("param").accepted, rig.ledger().of("artifact").accepted) == (1, 1)


def test_at_its_bound_the_spool_drops_the_oldest_metrics_and_nothing_else(tmp_path: Path) -> None:
    rig = PipelineRig(tmp_path, spool_max_bytes=1 << 20)
    rig.store_error = Unavailable("away")
    ring = rig.ring()
    put(ring, start(), Params(1, {"lr": "1"}))
    for step in range(600):
        put(ring, rig.row(*(f"metric-number-{i:03}" for i in range(100)), step=step))
        if step % 10 == 0:
            rig.run(0.2)
            assert rig.pipeline.spool.waiting.bytes <= 1 << 20
    put(ring, End(1, "FINISHED", 9))
    rig.run(5)
    counts = rig.status().ledger.of("metric")
    assert counts.accepted == 60_000
    assert set(counts.dropped) == {"spool at its bound"}
    assert counts.pending == 60_000 - counts.dropped["spool at its bound"] > 10_000
    assert sum("is at its bound" in text for text in rig.status().notices) == 1
    rig.store_error = None
    rig.run(60)
    assert min(point.step for points in rig.of().metrics.values() for point in points) > 100
    assert max(point.step for points in rig.of().metrics.values() for point in points) == 599
    assert (rig.of().params, rig.of().status) == ({"lr": "1"}, "FINISHED")
    assert rig.ledger().pending == 0
    rig.pipeline.close()
