"""The blocks that wait, oldest first, and the bound of what may wait."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.spools import block, ids, put
from tailrace_agent.ipc.records import Kind
from tailrace_agent.spool.blocks import SYSTEM, Outcome
from tailrace_agent.spool.store import Spool


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


def test_runs_are_known_by_the_kind_of_what_waits_until_it_is_gone(spool: Spool) -> None:
    spool.ingest([(1, "metric", 1, 1, b"m"), (2, "artifact", 1, 1, b"a"), (2, "tag", 1, 1, b"t")], [])
    assert (spool.waiting.runs_with("artifact"), spool.waiting.runs_with("param")) == ({2}, set())
    assert (spool.waiting.runs, spool.waiting.points) == ({1, 2}, 3)
    kinds: tuple[Kind, ...] = ("tag", "artifact")
    for kind in kinds:
        with spool.waiting.holding(2, kind, 10) as (block,):
            spool.settle(Outcome(2, kind, [block.id], 1))
    assert (spool.waiting.runs_with("artifact"), spool.waiting.runs) == (set(), {1})
